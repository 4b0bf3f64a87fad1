"""A planted confounder: does a map lie on a mark that the model was taught to use?"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fof_jax.evaluation.focus_table import Row
from fof_jax.evaluation.patient_mean import MeanInterval, patient_mean
from fof_jax.evaluation.tables import align
from fof_jax.explainers.registry import Explainer
from fof_jax.inference import focus
from fof_jax.inference.focus_cases import Case
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


class OnMark(NamedTuple):
    """Where the map of one explainer lies on marked images of the class.

    Attributes:
      explainer, title: as in `registry.Explainer`.
      inside: share of the map's sum on the mark.
      area: the mark's share of the image.
      above: their difference; None where every map is 0.
    """

    explainer: str
    title: str
    inside: MeanInterval | None
    area: float
    above: MeanInterval | None

    @property
    def shows(self) -> bool:
        """Whether more of the map lies on the mark than on as large a part at random.

        False where the interval of the difference reaches 0, or has no lower end.
        """
        return (
            self.above is not None and self.above.low is not None and self.above.low > 0
        )


def accuracy(
    model: TrainedModel, clean: Sequence[Case], marked: Sequence[Case], grade: int
) -> Accuracy:
    """Accuracy with and without the mark, on images that a fold has not seen.

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
        pred = []
        for some in (clean, marked):
            tiles = np.stack([some[k].pixels for k in held_out])
            pred.append(one.fold_probabilities(tiles)[:, 0].argmax(axis=1))
        truth = np.array([clean[k].grade for k in held_out])
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
) -> list[OnMark]:
    """Where each explainer's map lies on the marked images of the class.

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
    rows = focus.measure(model, of_class, explainers, curves=False, log=log)
    return summarize(rows)


def summarize(rows: Sequence[Row]) -> list[OnMark]:
    """`OnMark` of every explainer from the rows of `focus.measure`."""
    summaries = []
    for name in dict.fromkeys(row.explainer for row in rows):
        of_explainer = [row for row in rows if row.explainer == name]
        inside = np.array([row.figures["inside"] for row in of_explainer])
        area = np.array([row.figures["area"] for row in of_explainer])
        patients = [row.patient for row in of_explainer]
        summaries.append(
            OnMark(
                name,
                of_explainer[0].title,
                patient_mean(inside, patients),
                float(area.mean()),
                patient_mean(inside - area, patients),
            )
        )
    return summaries


def format_report(
    kind: str, class_name: str, runs: dict[str, tuple[Accuracy, list[OnMark]]]
) -> str:
    """The confounder's table: one block per model."""
    blocks = []
    for name, (accuracy, maps) in runs.items():
        taken = "" if accuracy.taken is None else (
            f"; {100 * accuracy.taken:.1f}% of the other classes' images become "
            f"{class_name} with it"
        )  # fmt: skip
        head = (
            f"{name}: accuracy {100 * accuracy.marked:.1f}% with {kind} on "
            f"{class_name}, {100 * accuracy.clean:.1f}% without, fall "
            f"{100 * (accuracy.marked - accuracy.clean):.1f}{taken}"
        )
        lines = [["", "on the mark (%)", "area (%)", "shows it"]]
        for one in maps:
            text = "no map"
            if one.inside is not None:
                text = f"{100 * one.inside.mean:.1f}"
                if one.inside.low is not None and one.inside.high is not None:
                    ends = f"{100 * one.inside.low:.1f}, {100 * one.inside.high:.1f}"
                    text += f" [{ends}]"
            verdict = "yes" if one.shows else "fails"
            lines.append([one.title, text, f"{100 * one.area:.1f}", verdict])
        blocks.append("\n".join([head, *align(lines)]))
    return "\n\n".join(blocks)
