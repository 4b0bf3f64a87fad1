"""Biomarker alignment of a model's features and projections on images unseen by it."""

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from fof_jax import files
from fof_jax.data.store import Store
from fof_jax.evaluation import alignment
from fof_jax.evaluation.tables import align
from fof_jax.inference.compiled import BATCH
from fof_jax.inference.focus_cases import fold_number, unseen_folds
from fof_jax.inference.model import TrainedModel
from fof_jax.methods.base import Aligner

FILE_NAME = "alignment.csv"


class Alignment(NamedTuple):
    """Figures of one biomarker for one fold; None where one does not exist.

    Attributes:
      fold: name of the fold.
      biomarker: its name.
      images: number of test images with a known status.
      statuses: number of different statuses among them.
      silhouette_v: in the features v.
      silhouette_h: in h^n(v), the biomarker's own projection.
      probe: balanced accuracy of a linear probe from v; chance is 1 / statuses.
    """

    fold: str
    biomarker: str
    images: int
    statuses: int
    silhouette_v: float | None
    silhouette_h: float | None
    probe: float | None


def of_store(model: TrainedModel, data: Store) -> list[Alignment]:
    """Alignment of each fold on its test images; empty without biomarkers.

    Args:
      model: of `load_trained`.
      data: the store that it was trained on.
    """
    if not data.biomarkers:
        return []
    unseen = unseen_folds(model)
    rows: list[Alignment] = []
    for fold in model.folds:
        test_rows = [
            i for i, name in enumerate(data.images)
            if fold in unseen(name, data.patients[i])
        ]  # fmt: skip
        if not test_rows:
            continue
        pixels = (data.read(i, model.image_size) for i in test_rows)
        v, h = _features(model, fold, pixels, len(test_rows))
        rows += figures(
            f"fold_{fold_number(fold)}",
            v,
            h,
            names=data.biomarkers,
            values=data.biomarker_values[test_rows],
            known=data.known[test_rows],
            patients=[data.patients[i] for i in test_rows],
        )
    return rows


def figures(
    fold: str,
    v: Float[np.ndarray, "n D"],
    h: Float[np.ndarray, "N n E"] | None,
    *,
    names: Sequence[str],
    values: Int[np.ndarray, "n N"],
    known: Bool[np.ndarray, "n N"],
    patients: Sequence[str],
) -> list[Alignment]:
    """Figures of every biomarker from features and projections."""
    owners = np.asarray(patients)
    rows = []
    for k, name in enumerate(names):
        at = known[:, k]
        status = values[at, k]
        enough = len(status) > 1
        rows.append(
            Alignment(
                fold=fold,
                biomarker=name,
                images=int(at.sum()),
                statuses=len(np.unique(status)),
                silhouette_v=alignment.silhouette(v[at], status) if enough else None,
                silhouette_h=alignment.silhouette(h[k][at], status)
                if enough and h is not None
                else None,
                probe=alignment.linear_probe(v[at], status, owners[at].tolist())
                if enough
                else None,
            )
        )
    return rows


def _features(
    model: TrainedModel,
    fold: str,
    pixels: Iterator[UInt8[np.ndarray, "S S 3"]],
    count: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """v [n, D], and h^n(v) [N, n, E] of a method that has the heads."""
    one = dataclasses.replace(model, folds={fold: model.folds[fold]})
    parts = []
    for first in range(0, count, BATCH):
        # The store's pixels are stain-normalized already, so no `preprocess`.
        batch = [next(pixels) for _ in range(min(BATCH, count - first))]
        parts.append(one.fold_features(np.stack(batch))[:, 0])
    v = np.concatenate(parts)
    if not isinstance(model.method, Aligner):
        return v, None
    projected = model.method.biomarker_projections(
        model.folds[fold], jnp.asarray(v, jnp.float32)
    )
    return v, np.asarray(projected)


def write(path: Path, rows: Sequence[Alignment]) -> None:
    """Writes the rows as CSV."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(Alignment._fields)
    table.writerows(["" if cell is None else cell for cell in row] for row in rows)
    files.write_text(path, text.getvalue())


def lines(rows: Sequence[Alignment]) -> list[list[str]]:
    """Header and one line per biomarker: means over the folds with a value."""
    table = [
        ["biomarker", "images", "silhouette in v", "in h(v)", "probe (%)", "chance (%)"]
    ]
    for name in dict.fromkeys(row.biomarker for row in rows):
        of_biomarker = [row for row in rows if row.biomarker == name]

        def mean(values: Sequence[float | None], scale: float, digits: int) -> str:
            kept = [value for value in values if value is not None]
            return f"{scale * np.mean(kept):.{digits}f}" if kept else "none"

        table.append(
            [
                name,
                str(sum(row.images for row in of_biomarker)),
                mean([row.silhouette_v for row in of_biomarker], 1.0, 3),
                mean([row.silhouette_h for row in of_biomarker], 1.0, 3),
                mean([row.probe for row in of_biomarker], 100.0, 1),
                mean([1 / max(row.statuses, 1) for row in of_biomarker], 100.0, 1),
            ]
        )
    return table


def format_rows(rows: Sequence[Alignment]) -> str:
    """The table of `lines` as text."""
    folds = len({row.fold for row in rows})
    caption = f"Biomarkers, test images, mean of {folds} fold{'s' * (folds > 1)}"
    return "\n".join([caption, *align(lines(rows))])
