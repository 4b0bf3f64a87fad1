"""Scores of a model's map over the patches of bags, beside a random map."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool

from fof_jax.data.bags.index import BagIndex
from fof_jax.evaluation import bag_scores, focus_scores
from fof_jax.evaluation.focus_table import Row
from fof_jax.inference import bags
from fof_jax.inference.focus_cases import fold_number, spread, unseen_folds
from fof_jax.inference.model import TrainedModel

RANDOM = "random"
SEED = 20  # of the random map
# Name and title of a method's own map; Eq. (1) of the others.
_OWN = {"abmil": ("attention", "attention"), "mean_pooling": ("linear", "linear part")}


@dataclasses.dataclass(frozen=True, eq=False)
class BagCase:
    """One bag whose deciding patches are known.

    Attributes:
      image, patient: names.
      grade: class index, whose evidence is sought.
      position: in the index.
      mask: True on deciding patches; somewhere.
      folds: names of the folds that have not been trained on it.
    """

    image: str
    patient: str
    grade: int
    position: int
    mask: Bool[np.ndarray, " N"]
    folds: tuple[str, ...]


def explainers(model: TrainedModel) -> dict[str, str]:
    """Titles of the maps by name: the method's own, and `RANDOM`."""
    method = model.config.method
    depth = f"Eq. (1), block {model.config.cam.block}"
    name, title = _OWN.get(method, ("eq1", depth))
    return {name: title, RANDOM: "random"}


def choose(words: Sequence[str], model: TrainedModel) -> dict[str, str]:
    """The maps that a list of names or of the groups all, main, model, blind asks for.

    Raises:
      ValueError: there is no such name.
    """
    table = explainers(model)
    default = next(iter(table))
    groups = {"all": [*table], "main": [*table], "model": [default], "blind": [RANDOM]}
    chosen: dict[str, str] = {}
    for word in words:
        if word not in groups and word not in table:
            raise ValueError(
                f"explainers: {word!r} does not exist for bags. Expected a list, "
                f"separated by commas, of {', '.join([*groups, *table])}."
            )
        chosen |= {name: table[name] for name in groups.get(word, [word])}
    return chosen


def cases(
    model: TrainedModel,
    index: BagIndex,
    images: Sequence[str],
    patients: Sequence[str],
    grades: Sequence[int] | np.ndarray,
    *,
    limit: int | None = None,
) -> list[BagCase]:
    """Bags whose file says what decides, of folds that were not trained on them.

    Args:
      model: whose folds are scored.
      index: of the store, or of another cohort.
      images, patients, grades: of its bags.
      limit: largest number of bags, as evenly from the grades as they have them.

    Raises:
      ValueError: there is no such bag.
    """
    unseen = unseen_folds(model)
    selected = []
    for i in np.flatnonzero(index.has_mask).tolist():
        folds = unseen(images[i], patients[i])
        mask = index.read_mask(i) if folds else None
        if mask is not None and mask.any():
            grade = int(grades[i])
            selected.append(BagCase(images[i], patients[i], grade, i, mask, folds))
    if not selected:
        raise ValueError(
            "focus: no bag that a fold has not seen says which patches decide (the "
            "dataset 'mask' of its file). Pass another table as --table."
        )
    return [selected[k] for k in spread([one.grade for one in selected], limit=limit)]


def measure(
    model: TrainedModel,
    index: BagIndex,
    chosen: Sequence[BagCase],
    maps: dict[str, str],
    *,
    report_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Figures of every map on every bag, for each fold that has not seen it.

    Args:
      model: of `load_trained`, of bags.
      index: of the bags.
      chosen: of `cases`.
      maps: of `choose`.
      report_progress: called with (done, total) bags times folds.

    Returns:
      Rows with pointing, inside, area, iou (of as many patches as decide), precision
      (of patches), stability and ms.
    """
    predictor = bags.BagPredictor(model)
    total = sum(len(case.folds) for case in chosen)
    rows: list[Row] = []
    done = 0
    for case in chosen:
        bag = bags.pad(index.read(case.position))
        count = len(case.mask)
        for name, title in maps.items():
            fold_maps: list[np.ndarray] = []
            for fold in case.folds:
                start = time.perf_counter()
                if name == RANDOM:
                    A = np.random.default_rng([SEED, case.position]).random(count)
                else:
                    variables = model.folds[fold]
                    A = predictor.map_of(variables, bag, case.grade)[:count]
                ms = 1000 * (time.perf_counter() - start)
                rows.append(_row(model, case, fold, (name, title), A, ms))
                fold_maps.append(A)
            stability = focus_scores.agreement(fold_maps)
            for row in rows[len(rows) - len(case.folds) :]:
                row.figures["stability"] = stability
        done += len(case.folds)
        report_progress(done, total)
    return rows


def _row(
    model: TrainedModel,
    case: BagCase,
    fold: str,
    explainer: tuple[str, str],
    A: np.ndarray,
    ms: float,
) -> Row:
    name, title = explainer
    figures = bag_scores.score(A, case.mask)
    column, truth = A[None, :, None], case.mask[None, :, None]
    figures["iou"] = float(focus_scores.iou_at_own_area(column, truth)[0])
    return Row(
        image=case.image,
        tile=0,
        patient=case.patient,
        fold=f"fold_{fold_number(fold)}",
        grade=model.classes[case.grade],
        explainer=name,
        title=title,
        blind=name == RANDOM,
        figures=figures | {"ms": ms},
    )
