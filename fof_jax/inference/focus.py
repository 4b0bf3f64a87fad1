"""Scores every explainer of a trained model on images with masks."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fof_jax.data.augment import pipeline
from fof_jax.evaluation import focus_scores, localization
from fof_jax.evaluation.focus_table import Row
from fof_jax.explainers.base import NotAvailable, Query, to_map
from fof_jax.explainers.registry import Explainer
from fof_jax.inference.focus_cases import Case
from fof_jax.inference.focus_perturbation import FILLS, blank_images, shuffle_blocks
from fof_jax.inference.model import TrainedModel
from fof_jax.types import Batch, Variables

BATCH = 8
RANDOM_ORDERS = 4  # of patches; the reference of deletion and insertion
Progress = Callable[[int, int], None]
# Map of each (image, tile, explainer) by each fold.
Maps = dict[tuple[str, int, str], dict[str, np.ndarray]]


def measure(
    model: TrainedModel,
    cases: Sequence[Case],
    explainers: Sequence[Explainer],
    *,
    curves: bool = True,
    log: Callable[[str], None] = print,
    report_progress: Progress = lambda done, total: None,
) -> list[Row]:
    """Figures of every explainer on every case, for each fold that has not seen it.

    Args:
      model: of `load_trained`; its method has `vit_classifier`.
      cases: of `focus_cases`.
      explainers: of `registry.choose`.
      curves: whether to measure deletion and insertion, most of the time.
      log: told which explainers the model does not have, and why.
      report_progress: called with (done, total) maps.

    Returns:
      Rows with the figures of `focus_table.FIGURES` but `above_blind`.

    Raises:
      ValueError: the model has none of the explainers.
    """
    usable = _usable(model, explainers, cases[0], log)
    total = len(usable) * sum(len(case.folds) for case in cases)
    report_progress(0, total)
    rows: list[Row] = []
    maps: Maps = {}
    for fold, variables in model.folds.items():
        fold_cases = [(i, case) for i, case in enumerate(cases) if fold in case.folds]
        session = _Session(model, variables, usable, curves=curves)
        for first in range(0, len(fold_cases), BATCH):
            part = fold_cases[first : first + BATCH]
            for row, A in session.measure(part, _label(fold)):
                rows.append(row)
                key = (row.image, row.tile, row.explainer)
                maps.setdefault(key, {})[fold] = A
                report_progress(len(rows), total)
    for row in rows:
        each = [*maps[row.image, row.tile, row.explainer].values()]
        row.figures["stability"] = focus_scores.agreement(each)
    return rows


def example_maps(
    model: TrainedModel, case: Case, explainers: Sequence[Explainer]
) -> dict[str, np.ndarray]:
    """Maps of one case by the first fold that has not seen it, by explainer's title."""
    query = _query(model, [(0, case)])
    variables = model.folds[case.folds[0]]
    maps = {}
    for one in _usable(model, explainers, case, lambda line: None):
        evidence = _explain(model.method, one, variables, query)
        maps[one.title] = np.asarray(to_map(evidence, case.mask.shape))[0]
    return maps


def _usable(
    model: TrainedModel,
    explainers: Sequence[Explainer],
    case: Case,
    log: Callable[[str], None],
) -> list[Explainer]:
    """The explainers that the model has; logs the others with the reason."""
    variables = next(iter(model.folds.values()))
    query = _query(model, [(0, case)])
    usable = []
    for one in explainers:
        try:
            _explain.eval_shape(model.method, one, variables, query)
            usable.append(one)
        except NotAvailable as missing:
            log(f"{one.title}: none, {missing}")
    if not usable:
        raise ValueError(
            "focus: the model has none of these explainers. Pass --explainers=all."
        )
    return usable


class _Session:
    """Compiled functions for the model of one fold."""

    def __init__(
        self,
        model: TrainedModel,
        variables: Variables,
        explainers: Sequence[Explainer],
        *,
        curves: bool,
    ):
        self.model, self.variables, self.curves = model, variables, curves
        self.shuffled = shuffle_blocks(variables, model.method)
        self.explain = {
            one: functools.partial(_explain, model.method, one) for one in explainers
        }
        self.warm: set[str] = set()

    def measure(
        self, part: Sequence[tuple[int, Case]], fold: str
    ) -> Iterator[tuple[Row, np.ndarray]]:
        """Rows of one batch, and the evidence of each."""
        size = len(part)
        query = _query(self.model, [*part, *[part[-1]] * (BATCH - size)])
        mask = np.stack([case.mask for _, case in part])
        random = self._random_areas(query) if self.curves else {}
        for one, explain in self.explain.items():
            evidence, ms = self._timed(one, explain, query)
            A = np.asarray(to_map(evidence, mask.shape[1:]))[:size]
            other = explain(self.shuffled, query)
            figures = {
                "pointing": focus_scores.pointing(np.asarray(evidence)[:size], mask),
                "inside": localization.inside(A, mask),
                "area": mask.mean(axis=(1, 2)),
                "iou": focus_scores.iou_at_own_area(A, mask),
                "precision": focus_scores.average_precision(A, mask),
                "randomized": focus_scores.rank_correlation(
                    np.asarray(evidence), np.asarray(other)
                ),
                "ms": np.full(size, ms / BATCH),
            }
            if self.curves:
                rank = focus_scores.order(np.asarray(evidence), np.asarray(query.index))
                for fill in FILLS:
                    deletion, insertion = self._areas(query, rank, fill)
                    figures[f"deletion_{fill}"] = random[fill][0] - deletion
                    figures[f"insertion_{fill}"] = insertion - random[fill][1]
            for at, (_, case) in enumerate(part):
                yield self._row(case, fold, one, figures, at), np.asarray(evidence)[at]

    def _row(self, case, fold, one, figures, at) -> Row:
        return Row(
            image=case.image,
            tile=case.tile,
            patient=case.patient,
            fold=fold,
            grade=self.model.classes[case.grade],
            explainer=one.name,
            title=one.title,
            blind=one.blind,
            figures={name: float(column[at]) for name, column in figures.items()},
        )

    def _timed(self, one: Explainer, explain: Any, query: Query):
        if one.name not in self.warm:
            jax.block_until_ready(explain(self.variables, query))  # compiles
            self.warm.add(one.name)
        start = time.perf_counter()
        evidence = jax.block_until_ready(explain(self.variables, query))
        return evidence, 1000 * (time.perf_counter() - start)

    def _areas(self, query: Query, rank: np.ndarray, fill: str):
        blank = blank_images(query.image, fill, self.model.image_size)

        def probability(keep: Bool[np.ndarray, "B h w"]) -> np.ndarray:
            shown = _probability(
                self.model.method, self.variables, query, blank, jnp.asarray(keep)
            )
            return np.asarray(shown, np.float64)

        return localization.curves(probability, rank)

    def _random_areas(self, query: Query) -> dict[str, np.ndarray]:
        """Deletion and insertion areas in random orders, the mean of several."""
        h, w = self.model.method.vit_classifier(self.variables).encoder.grid
        equal = np.zeros((len(query.index), h, w))
        orders = [
            focus_scores.order(equal, 1000 * (k + 1) + np.asarray(query.index) * 7919)
            for k in range(RANDOM_ORDERS)
        ]
        return {
            fill: np.mean([self._areas(query, rank, fill) for rank in orders], axis=0)
            for fill in FILLS
        }


def _label(fold: str) -> str:
    parts = [p for p in Path(fold).parts if p.startswith("fold_")]
    return parts[-1] if parts else Path(fold).name


# Methods and explainers are static: the folds of a model share programs.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _explain(
    method: Any, one: Explainer, variables: Variables, query: Query
) -> Float[Array, "B h w"]:
    """Evidence of each patch."""
    return one.explain(method.vit_classifier(variables), query)


@functools.partial(jax.jit, static_argnums=0)
def _probability(
    method: Any,
    variables: Variables,
    query: Query,
    blank: Float[Array, "B H W C"],
    keep: Bool[Array, "B h w"],
) -> Float[Array, " B"]:
    """Probability of the target when the patches outside `keep` are blank."""
    p, q = (query.image.shape[k] // keep.shape[k] for k in (1, 2))
    visible = jnp.repeat(jnp.repeat(keep, p, axis=1), q, axis=2)[..., None]
    image = jnp.where(visible, query.image, blank)
    logits = method.apply(variables, Batch(image=image)).logits
    each = jax.nn.softmax(logits.astype(jnp.float32))
    return jnp.take_along_axis(each, query.target[:, None], axis=1)[:, 0]


def _query(model: TrainedModel, part: Sequence[tuple[int, Case]]) -> Query:
    pixels = jnp.asarray(np.stack([case.pixels for _, case in part]))
    return Query(
        pixels=pixels,
        image=pipeline.normalize(pixels, color=model.config.data.color),
        target=jnp.asarray([case.grade for _, case in part], jnp.int32),
        index=jnp.asarray([i for i, _ in part], jnp.int32),
    )
