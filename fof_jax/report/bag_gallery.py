"""Gallery of test bags: their maps, over the slide where there is one, and scores."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool

from fof_jax.data.bags.index import BagIndex
from fof_jax.evaluation import bag_scores
from fof_jax.evaluation.predictions import Predictions
from fof_jax.evaluation.tables import percent
from fof_jax.inference import bag_pictures, bag_slides, bags, focus_bags
from fof_jax.report import gallery
from fof_jax.report.fold_model import TestedFold
from fof_jax.report.page import Section
from fof_jax.report.tables import Table

TITLE = "Bags (the paper's Fig. 2 and 4)"
_PLAIN, _CHOSEN = (200, 200, 200), (214, 96, 20)  # patches; those of M and of a mask
_SCORES = {
    "pointing": "pointing game",
    "precision": "average precision",
    "inside": "fraction of A inside",
    "area": "fraction of patches (chance)",
    "iou": "IoU of M",
}


def section(fold: TestedFold, tested: Predictions | None, folder: Path) -> Section:
    """Maps of some test bags, and their scores where the files have masks.

    Args:
      fold: a finished fold of a model of bags.
      tested: its predictions.
      folder: for gallery.pdf and gallery.svg.
    """
    index = fold.data.bags
    predictor = bags.BagPredictor(fold.model)  # compiles once for equal lengths
    shown, rows = [], []
    if tested is not None and index is not None:
        for i in [i for rows in gallery.choose(tested) for i in rows]:
            case, scores = _case(fold, predictor, index, tested, i)
            shown.append(case)
            rows += [(case.image, *scores)] if scores else []
    if not shown:
        return Section("regions", TITLE, ("No bag has a known class.",))
    gallery.plot(shown, folder)
    correct = sum(case.correct for case in shown)
    text = (
        f"Test bags of fold {fold.fold}: for each true class, the most confident "
        f"correct ({correct}) and incorrect ({len(shown) - correct}) prediction. They "
        "are extremes, not a random sample. The map is the method's own, "
        f"{_own_map(fold)[1]}, scaled to 0-1 over the patches of a bag."
    )
    table = Table(
        "Maps of the true class against the patches that decide it, in %.",
        ("bag", *_SCORES.values()),
        tuple(rows),
    )
    missing = (
        "No scores: the files of these bags do not say which patches decide the grade "
        "(dataset mask)."
    )
    return Section(
        "regions",
        TITLE,
        (text,) if rows else (text, missing),
        (table,) if rows else (),
        cases=tuple(shown),
    )


def _own_map(fold: TestedFold) -> tuple[str, str]:
    """Name and title of the method's map."""
    return next(iter(focus_bags.explainers(fold.model).items()))


def _case(
    fold: TestedFold,
    predictor: bags.BagPredictor,
    index: BagIndex,
    tested: Predictions,
    i: int,
) -> tuple[gallery.Case, list[str]]:
    """One bag of the gallery, and its scores; [] without a mask."""
    row = list(fold.data.images).index(tested.image[i])
    entry, mask = index.entries[row], index.read_mask(row)
    header, classes = entry.header, fold.data.classes
    (variables,) = fold.model.folds.values()
    bag = bags.pad(index.read(row))
    y, k = int(tested.y[i]), int(tested.pred[i])
    A, of_truth = (predictor.map_of(variables, bag, c)[: header.count] for c in (k, y))
    keep = predictor.keep(A)
    placed = bag_slides.place(
        entry.path, index.read_coords(row), header.patch_size, header.unit,
        slide=entry.slide,
    )  # fmt: skip

    def picture(colors: np.ndarray | None) -> np.ndarray:
        return bag_pictures.raster(placed, colors, side=gallery.SIDE)

    def marked(chosen: Bool[np.ndarray, " N"]) -> np.ndarray:
        if placed.thumbnail is not None:
            colors = np.tile(np.array(_CHOSEN, float), (header.count, 1))
            return bag_pictures.raster(placed, colors, shown=chosen, side=gallery.SIDE)
        return picture(np.where(chosen[:, None], _CHOSEN, _PLAIN).astype(float))

    nothing = np.zeros(header.count, bool)
    first = marked(nothing) if placed.thumbnail is None else picture(None)
    panels = [("patches" if placed.thumbnail is None else "slide", first)]
    if _own_map(fold)[0] == "attention":  # of no class in particular
        panels.append(("attention", picture(bag_pictures.heat(A))))
    else:
        label = f"A of {classes[k]} (predicted)"
        panels.append((label, picture(bag_pictures.heat(A))))
        if keep is not None:
            panels.append((f"patches kept for {classes[k]}", marked(keep)))
        if y != k:
            label = f"A of {classes[y]} (true)"
            panels.append((label, picture(bag_pictures.heat(of_truth))))
    if mask is not None and mask.any():
        panels.append(("deciding patches", marked(mask)))
    case = gallery.Case(
        image=tested.image[i],
        patient=tested.patient[i],
        truth=classes[y],
        predicted=classes[k],
        correct=y == k,
        probability=float(tested.prob[i, k]),
        kept=None if keep is None else float(keep.mean()),
        panels=tuple(panels),
    )
    if mask is None or not mask.any():
        return case, []
    score = bag_scores.score(of_truth, mask, predictor.keep(of_truth))
    known = (None if np.isnan(v) else v for v in (score[name] for name in _SCORES))
    return case, [percent(value, None) for value in known]
