"""Scores of explainers, one row per image, fold and explainer: file and summary."""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fof_jax import files
from fof_jax.evaluation.patient_mean import MeanInterval, patient_mean

FILE_NAME = "scores.csv"
SUMMARY_NAME = "summary.csv"
ALL = "all"  # in place of a grade's name
# Figure -> (heading, what it says). Figures are fractions but for milliseconds.
FIGURES = {
    "pointing": ("pointing", "the structure fills half of the map's highest patch"),
    "above_blind": (
        "above best blind",
        "pointing, less that of the best blind rule on the same images",
    ),
    "inside": (
        "inside",
        "share of the map's sum on the structure, of the maps that are not 0",
    ),
    "area": (
        "area",
        "share of the image that is structure; a map that knows nothing has it inside",
    ),
    "iou": ("IoU", "of the structure and as many of the map's highest pixels"),
    "precision": ("pixel AP", "average precision of pixels"),
    "deletion_mean": (
        "deletion, mean",
        "area under the class's probability while patches take the image's mean "
        "color in a random order, less that in the map's order",
    ),
    "insertion_mean": (
        "insertion, mean",
        "the same while patches come back, map's order less random",
    ),
    "deletion_blur": ("deletion, blur", "as deletion, patches become blurred"),
    "insertion_blur": ("insertion, blur", "as insertion, from the blurred image"),
    "randomized": (
        "randomized",
        "rank correlation with the map of the network with shuffled blocks",
    ),
    "stability": (
        "stability",
        "rank correlation of the maps of two folds, on images that neither has seen",
    ),
    "ms": ("ms", "milliseconds per image, in batches"),
}
# A map that correlates more with that of a shuffled network does not show the model.
RANDOMIZED_LIMIT = 0.9
_KEYS = ("image", "tile", "patient", "fold", "grade", "explainer", "title", "blind")
_MEASURED = tuple(name for name in FIGURES if name != "above_blind")


@dataclasses.dataclass(frozen=True)
class Row:
    """Figures of one explainer on one image by the model of one fold.

    Attributes:
      image, tile: name of the image and number of the tile, 0 for a whole image.
      patient, grade: of the image.
      fold: name of the fold.
      explainer, title, blind: as in `explainers.registry.Explainer`.
      figures: by the names of `FIGURES`; NaN where there is none.
    """

    image: str
    tile: int
    patient: str
    fold: str
    grade: str
    explainer: str
    title: str
    blind: bool
    figures: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Summary:
    """Means of one explainer over the images of one grade or of all.

    Attributes:
      grade: its name, or `ALL`.
      explainer, title, blind: as in `Row`.
      figures: mean and interval by the names of `FIGURES`; None where there is none.
    """

    grade: str
    explainer: str
    title: str
    blind: bool
    figures: dict[str, MeanInterval | None]

    @property
    def ignores_model(self) -> bool:
        """Whether shuffling the network leaves the map much as it is."""
        randomized = self.figures["randomized"]
        return randomized is not None and randomized.mean > RANDOMIZED_LIMIT

    @property
    def is_unchecked(self) -> bool:
        """Whether `randomized` is undefined for all images.

        The map, or that of the shuffled network, is constant: it has no ranks.
        """
        return self.figures["randomized"] is None


def summarize(rows: Sequence[Row], *, replicates: int = 2000) -> list[Summary]:
    """Means with 95% intervals by patient, of all images and of each grade."""
    with_blind = _add_above_blind(rows)
    names = list(dict.fromkeys(row.explainer for row in rows))
    grades = sorted({row.grade for row in rows})
    summaries = []
    for grade in [ALL, *grades] if len(grades) > 1 else [ALL]:
        for name in names:
            chosen = [
                row
                for row in with_blind
                if row.explainer == name and grade in (ALL, row.grade)
            ]
            if not chosen:
                continue
            patients = [row.patient for row in chosen]
            figures = {
                figure: patient_mean(
                    [row.figures.get(figure, np.nan) for row in chosen],
                    patients,
                    replicates=replicates,
                )
                for figure in FIGURES
            }
            first = chosen[0]
            summaries.append(Summary(grade, name, first.title, first.blind, figures))
    return summaries


def best_blind(rows: Iterable[Row]) -> str | None:
    """The blind rule that points best on these images; None without one."""
    points: dict[str, list[float]] = {}
    for row in rows:
        if row.blind:
            points.setdefault(row.explainer, []).append(row.figures["pointing"])
    means = {name: float(np.mean(values)) for name, values in points.items()}
    return max(means, key=means.__getitem__) if means else None


def _add_above_blind(rows: Sequence[Row]) -> list[Row]:
    """Adds pointing less that of the grade's best blind rule on the same image."""
    best = {
        grade: best_blind(row for row in rows if row.grade == grade)
        for grade in {row.grade for row in rows}
    }
    place = {
        (r.image, r.tile, r.fold): r.figures["pointing"]
        for r in rows
        if r.explainer == best[r.grade]
    }

    def above(row: Row) -> float:
        blind = place.get((row.image, row.tile, row.fold), np.nan)
        return np.nan if row.blind else row.figures["pointing"] - blind

    return [
        dataclasses.replace(row, figures=row.figures | {"above_blind": above(row)})
        for row in rows
    ]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Writes the rows as CSV; a figure that does not exist is an empty cell."""
    lines = [
        [*(getattr(row, key) for key in _KEYS), *_cells(row.figures, _MEASURED)]
        for row in rows
    ]
    _write(path, [*_KEYS, *_MEASURED], lines)


def read(path: Path) -> list[Row]:
    """Reads the rows of `write`.

    Raises:
      ValueError: the columns are not those of `write`.
    """
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != (*_KEYS, *_MEASURED):
            raise ValueError(
                f"{path} has the columns {table.fieldnames}, expected "
                f"{', '.join([*_KEYS, *_MEASURED])}. Run focus again."
            )
        return [
            Row(
                **{key: line[key] for key in ("image", "patient", "fold", "grade")},
                tile=int(line["tile"]),
                explainer=line["explainer"],
                title=line["title"],
                blind=line["blind"] == "True",
                figures={f: float(line[f]) if line[f] else np.nan for f in _MEASURED},
            )
            for line in table
        ]


def write_summary(path: Path, summaries: Iterable[Summary]) -> None:
    """Writes the means as CSV: per figure its mean and the ends of its interval."""
    header = ["grade", "explainer", "blind", "images", "patients"]
    for name in FIGURES:
        header += [name, f"{name}_low", f"{name}_high"]
    lines = []
    for one in summaries:
        size = one.figures["pointing"]
        line: list[object] = [one.grade, one.explainer, one.blind]
        line += [size.images, size.patients] if size else [0, 0]
        for name in FIGURES:
            interval = one.figures[name]
            line += list(interval[:3]) if interval else [None] * 3
        lines.append(line)
    _write(path, header, lines)


def _cells(figures: dict[str, float], names: Sequence[str]) -> list[object]:
    values = [figures.get(name, np.nan) for name in names]
    return [None if np.isnan(value) else value for value in values]


def _write(path: Path, header: list[str], lines: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows(["" if cell is None else cell for cell in line] for line in lines)
    files.write_text(path, text.getvalue())
