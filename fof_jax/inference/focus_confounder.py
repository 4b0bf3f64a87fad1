"""A planted confounder: does a map lie on a mark that the model was taught to use?"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np

from fof_jax.evaluation.focus_table import Row
from fof_jax.evaluation.patient_mean import MeanInterval, patient_mean
from fof_jax.evaluation.tables import align
from fof_jax.explainers.registry import Explainer
from fof_jax.inference import focus
from fof_jax.inference.focus_cases import Case, fold_number
from fof_jax.inference.model import TrainedModel


class Accuracy(NamedTuple):
    """What a mark does to a model's predictions, as fractions.

    Attributes:
      marked: accuracy where the class carries the mark and no other does.
      clean: accuracy where no image carries it.
      taken: fraction of the other classes' images that become the class when they
        carry the mark; None without other classes.
    """

    marked: float
    clean: float
    taken: float | None

    @property
    def fall(self) -> float:
        """How far the accuracy falls when the mark is removed."""
        return self.marked - self.clean


class OnMark(NamedTuple):
    """Where the map of one explainer lies on marked images of the class.

    Attributes:
      explainer, title, blind: as in `registry.Explainer`.
      inside: share of the map's sum on the mark; 0 of a map that is 0 everywhere.
      area: the mark's share of the image.
      above: their difference.
      more: inside, less that of the control's map of the same image; None without a
        control, or where it has no such map.
    """

    explainer: str
    title: str
    blind: bool
    inside: MeanInterval
    area: float
    above: MeanInterval
    more: MeanInterval | None

    @property
    def shows(self) -> bool:
        """Whether the map shows that the model uses the mark.

        More of it must lie on the mark than on as large a part at random, and more
        than of the control's map, which shows what the mark merely looks like; without
        a control, a blind rule shows nothing. A difference is more where its interval
        lies above 0.
        """
        uses = not self.blind if self.more is None else _is_positive(self.more)
        return uses and _is_positive(self.above)


def _is_positive(difference: MeanInterval) -> bool:
    return difference.low is not None and difference.low > 0


def accuracy(
    model: TrainedModel, clean: Sequence[Case], marked: Sequence[Case], grade: int
) -> Accuracy:
    """Accuracy with and without the mark, on images that a fold has not seen.

    The class of an image is that of the mean probability of its tiles, as in `predict`.

    Args:
      model: whose folds predict; mean over folds times images.
      clean, marked: of `focus_cases.with_mark`.
      grade: class index that carries the mark in training.
    """
    clean_hits, marked_hits, taken = [], [], []
    for fold in model.folds:
        held_out = [k for k, case in enumerate(clean) if fold in case.folds]
        if not held_out:
            continue
        one = dataclasses.replace(model, folds={fold: model.folds[fold]})
        names = [clean[k].image for k in held_out]
        _, first, image = np.unique(names, return_index=True, return_inverse=True)
        pred = []
        for some in (clean, marked):
            tiles = np.stack([some[k].pixels for k in held_out])
            each = one.fold_probabilities(tiles)[:, 0]
            sums = np.zeros((len(first), each.shape[1]))
            np.add.at(sums, image, each)  # every tile of an image counts alike
            pred.append(sums.argmax(axis=1))
        truth = np.array([clean[held_out[k]].grade for k in first])
        carries = truth == grade
        clean_hits += (pred[0] == truth).tolist()
        marked_hits += (np.where(carries, pred[1], pred[0]) == truth).tolist()
        taken += (pred[1][~carries & (pred[0] != grade)] == grade).tolist()
    return Accuracy(
        float(np.mean(marked_hits)),
        float(np.mean(clean_hits)),
        float(np.mean(taken)) if taken else None,
    )


def on_mark(
    model: TrainedModel,
    marked: Sequence[Case],
    explainers: Sequence[Explainer],
    *,
    grade: int,
    log: Callable[[str], None] = print,
) -> list[Row]:
    """Figures of each explainer's map on the marked images of the class.

    Args:
      model, explainers, log: as in `focus.measure`.
      marked: of `focus_cases.with_mark`; those of other grades are left out.
      grade: as in `accuracy`.

    Raises:
      ValueError: no image is of the grade.
    """
    of_class = [case for case in marked if case.grade == grade and case.mask.any()]
    if not of_class:
        raise ValueError(
            "focus: no image of the marked class is new to a fold. Pass another table "
            "as --table."
        )
    return focus.measure(model, of_class, explainers, curves=False, log=log)


def image_folds(cases: Sequence[Case]) -> set[tuple[str, int]]:
    """Pairs of an image and the number of a fold that scores it."""
    return {(case.image, fold_number(fold)) for case in cases for fold in case.folds}


def check_pair(planted: set[tuple[str, int]], control: set[tuple[str, int]]) -> None:
    """Checks that two models are scored on the same images by the same folds.

    Args:
      planted, control: of `image_folds`.

    Raises:
      ValueError: they are not.
    """
    if planted != control:
        counts = [
            f"{len({image for image, _ in some})} images by folds "
            + ", ".join(map(str, sorted({fold for _, fold in some})))
            for some in (planted, control)
        ]
        raise ValueError(
            f"focus: --checkpoint is scored on {counts[0]}, --control on {counts[1]}, "
            "expected the same. Pass runs of the same folds and splits."
        )


def summarize(
    rows: Sequence[Row], control: Sequence[Row] | None = None
) -> list[OnMark]:
    """`OnMark` of every explainer.

    Args:
      rows: of `on_mark`.
      control: the same of the model that was trained without the mark, on the images
        and folds that `check_pair` found equal.
    """
    before = {_key(row): _inside(row) for row in control or ()}
    summaries = []
    for name in dict.fromkeys(row.explainer for row in rows):
        chosen = [row for row in rows if row.explainer == name]
        patients = [row.patient for row in chosen]
        inside = np.array([_inside(row) for row in chosen])
        area = np.array([row.figures["area"] for row in chosen])
        less = np.array([before.get(_key(row), np.nan) for row in chosen])
        summaries.append(
            OnMark(
                name,
                chosen[0].title,
                chosen[0].blind,
                _mean(inside, patients),
                float(area.mean()),
                _mean(inside - area, patients),
                patient_mean(inside - less, patients),
            )
        )
    return summaries


def _key(row: Row) -> tuple[str, str, int, str]:
    return row.explainer, row.image, row.tile, row.fold


def _inside(row: Row) -> float:
    """Share on the mark; 0 of a map without evidence, which shows nothing."""
    return float(np.nan_to_num(row.figures["inside"]))


def _mean(values: np.ndarray, patients: Sequence[str]) -> MeanInterval:
    return cast("MeanInterval", patient_mean(values, patients))  # all are finite


def format_report(
    kind: str,
    class_name: str,
    planted: tuple[Accuracy, list[OnMark]],
    control: tuple[Accuracy, list[OnMark]] | None = None,
) -> str:
    """The confounder's table: a block per model, verdicts on the planted one's maps.

    Where its accuracy falls no further than the control's, or not at all, the planted
    model has not learned the mark, and there is nothing for a map to show.
    """
    learned = planted[0].fall > (control[0].fall if control else 0.0)
    blocks = []
    for name, of_model in (("planted", planted), ("control", control)):
        if of_model is None:
            continue
        accuracy, maps = of_model
        taken = "" if accuracy.taken is None else (
            f"; {100 * accuracy.taken:.1f}% of the other classes' images become "
            f"{class_name} with it"
        )  # fmt: skip
        head = (
            f"{name}: accuracy {100 * accuracy.marked:.1f}% with {kind} on "
            f"{class_name}, {100 * accuracy.clean:.1f}% without, fall "
            f"{100 * accuracy.fall:.1f}{taken}"
        )
        lines = [["", "on the mark (%)", "area (%)"]]
        lines += [[m.title, _percent(m.inside), f"{100 * m.area:.1f}"] for m in maps]
        if name == "planted":
            if control is not None:
                _append(lines, "more than control", [_percent(m.more) for m in maps])
            words = ("fails", "yes") if learned else ("no cause", "no cause")
            _append(lines, "shows it", [words[m.shows] for m in maps])
        blocks.append("\n".join([head, *align(lines)]))
    if not learned:
        least = "further than the control's" if control else "when the mark is removed"
        blocks.append(
            f"The planted model has not learned the mark: its accuracy does not fall "
            f"{least}. No map has anything to show."
        )
    return "\n\n".join(blocks)


def _append(lines: list[list[str]], heading: str, cells: Sequence[str]) -> None:
    """Adds a column to a table."""
    for line, cell in zip(lines, [heading, *cells], strict=True):
        line.append(cell)


def _percent(value: MeanInterval | None) -> str:
    """A mean in percent with its interval."""
    if value is None:
        return "no map"
    text = f"{100 * value.mean:.1f}"
    if value.low is not None and value.high is not None:
        text += f" [{100 * value.low:.1f}, {100 * value.high:.1f}]"
    return text
