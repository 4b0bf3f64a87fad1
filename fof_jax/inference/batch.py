"""Grades and focus of many images: what `predict` and `explain` do.

What is done is written as it is done, into a folder that does not look finished: a
table below a hidden name, and a note of what was asked. The same command goes on from
there; the tables get their names when all is done.
"""

import collections
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fof_jax import files
from fof_jax.evaluation import metrics
from fof_jax.evaluation.predictions import (
    UNKNOWN,
    Predictions,
    as_csv,
    read_predictions,
    write_predictions,
)
from fof_jax.inference import resume, slides
from fof_jax.inference.inputs import Asked
from fof_jax.inference.model import Model
from fof_jax.inference.outputs import Focus, Grades

PICTURES = "focus"  # folder of PNGs below --out
Progress = Callable[[int, int], None]
GradeSlide = Callable[[Model, Path], slides.SlideGrades]


def predict(
    model: Model,
    asked: Sequence[Asked],
    out: Path,
    *,
    pictures: bool,
    progress: Progress,
    job: Mapping[str, str] | None = None,
    slide: GradeSlide = slides.grade,
) -> Predictions:
    """Grades every image; one that cannot be read becomes a row with the reason.

    Args:
      model: of `loading.load`.
      asked: of `listing.find`.
      out: folder for predictions.csv, patients.csv and, below it, `PICTURES`.
      pictures: whether each image gets a picture of its focus, which only a model that
        explains can draw, and each slide a map of its grades.
      progress: called with (done, of), of those that were not done before.
      job: what else tells this work from other work, such as the checkpoint.
      slide: how whole slides are graded.

    Returns:
      What predictions.csv holds; its notes say who is not in patients.csv.

    Raises:
      ValueError: a grade of the table is not among the model's classes; the folder
        holds something else.
    """
    y = _truths(model, asked)
    named = {"verb": "predict", "pictures": str(pictures), **(job or {})}
    with resume.folder_for(out, asked, named) as folder:
        rows = folder / "predictions.csv"
        none = _none(model, 0)
        drawn = out / PICTURES if pictures else None
        head = as_csv(_table([], y[:0], none, ()), spread=none)
        first = resume.keep_whole_rows(rows, head, asked)
        left = list(zip(asked, stems(asked), strict=True))[first:]
        with rows.open("a", encoding="utf-8", newline="") as file:
            for i, row in enumerate(_graded(model, left, drawn, slide), first):
                line = _table(asked[i : i + 1], y[i : i + 1], row.prob, row.error)
                file.write(as_csv(line, spread=row.spread, header=False))
                file.flush()
                progress(i + 1 - first, len(left))
        table = read_predictions(rows)
        patients = metrics.by_patient(table)
        write_predictions(folder / "patients.csv", patients)
        for name in ("patients.csv", "predictions.csv"):
            (folder / name).replace(out / name)
    return table


def explain(
    model: Model,
    asked: Sequence[Asked],
    out: Path,
    *,
    target: str | None,
    progress: Progress,
    job: Mapping[str, str] | None = None,
) -> list[str]:
    """A picture and an array of A for every image.

    Args:
      model: of `loading.load`.
      asked: of `listing.find`.
      out: folder for NAME.png and NAME.npy (A, float32, [H, W]).
      target: class that A speaks for; None for the predicted one.
      progress: called with (done, of), of those that were not done before.
      job: see `predict`.

    Returns:
      What could not be read, a line an image.

    Raises:
      ValueError: no such class, or a model without gradients; the folder holds
        something else.
    """
    if not model.explains:
        raise ValueError(
            "checkpoint: an exported file has no gradients, which Eq. (1) needs. Pass "
            "the run's own folder as --checkpoint."
        )
    model.index(target)
    faults = []
    named = {"verb": "explain", "target": str(target), **(job or {})}
    with resume.folder_for(out, asked, named):
        left = [
            (one, stem)
            for one, stem in zip(asked, stems(asked), strict=True)
            if not (out / f"{stem}.npy").exists()  # the last of its files
        ]
        for done, (one, stem) in enumerate(left, 1):
            try:
                if slides.is_slide(one.path):
                    raise ValueError(
                        "a whole slide; predict maps its grades. Cut a region out of "
                        "it to see A."
                    )
                focus = model.explain(one.path, target)
            except (ValueError, OSError) as fault:
                reason = _in_a_line(fault).removeprefix(f"{one.path.name}: ")
                faults.append(f"{one.name}: {reason}")
            else:
                draw(focus, out / f"{stem}.png", model, one.path.name)
                save = functools.partial(np.save, arr=focus.A.astype(np.float32))
                files.write_with(out / f"{stem}.npy", save)
            progress(done, len(left))
    return faults


def draw(focus: Focus, path: Path, model: Model, name: str) -> None:
    """The picture of one image's focus."""
    from fof_jax.inference import (
        visualization,  # Matplotlib: not for who wants tables alone
    )

    visualization.focus_picture(
        path,
        pixels=focus.pixels,
        A=focus.A,
        keep=focus.keep,
        title=_title(model, name, focus.prob, focus.spread, focus.target),
    )


def _graded(
    model: Model,
    asked: Sequence[tuple[Asked, str]],
    pictures: Path | None,
    slide: GradeSlide,
) -> Iterator[Grades]:
    """A row an image, in order; with a picture each where a folder is given."""
    kinds = itertools.groupby(asked, key=lambda pair: slides.is_slide(pair[0].path))
    for is_slide, some in kinds:
        if not is_slide and (pictures is None or not model.explains):
            yield from model.stream(one.path for one, _ in some)
            continue
        for one, stem in some:
            picture = None if pictures is None else pictures / f"{stem}.png"
            try:
                if is_slide:
                    row = _slide(model, one, picture, slide)
                else:
                    row = _region(model, one, picture)
            except (ValueError, OSError) as fault:
                none = _none(model, 1)
                row = Grades(none, none, model.classes, (str(fault),))
            yield row


def _region(model: Model, one: Asked, picture: Path | None) -> Grades:
    focus = model.explain(one.path)  # one opening of a file for row and picture
    if picture is not None:
        draw(focus, picture, model, one.path.name)
    return Grades(focus.prob[None], focus.spread[None], model.classes, ("",))


def _slide(model: Model, one: Asked, picture: Path | None, slide: GradeSlide) -> Grades:
    graded = slide(model, one.path)
    if picture is not None:
        from fof_jax.inference import visualization

        row = graded.grades
        visualization.slide_picture(
            picture,
            thumbnail=graded.thumbnail,
            tiles=graded.tiles,
            corners=graded.corners,
            side=graded.side,
            classes=model.classes,
            title=_title(model, one.path.name, row.prob[0], row.spread[0]),
        )
    return graded.grades


def _title(
    model: Model,
    name: str,
    prob: Float[np.ndarray, " K"],
    spread: Float[np.ndarray, " K"],
    target: str | None = None,
) -> str:
    """Name, predicted grade, and the class that A speaks for if it is another."""

    def said(k: int) -> str:
        beside = f" ± {spread[k]:.2f} over folds" if len(model.folds) > 1 else ""
        return f"{model.classes[k]}, p = {prob[k]:.2f}{beside}"

    best, asked = int(np.argmax(prob)), model.index(target)
    other = "" if asked in (None, best) else f"; A is for {said(asked)}"
    return f"{name}\npredicted {said(best)}{other}"


def _none(model: Model, rows: int) -> np.ndarray:
    return np.full((rows, len(model.classes)), np.nan)


def _table(
    asked: Sequence[Asked], y: np.ndarray, prob: np.ndarray, error: tuple[str, ...]
) -> Predictions:
    return Predictions(
        patient=tuple(one.patient for one in asked),
        image=tuple(one.name for one in asked),
        fold=np.full(len(asked), UNKNOWN),
        y=y,
        prob=prob,
        error=tuple(
            _in_a_line(text).removeprefix(f"{one.path.name}: ")
            for one, text in zip(asked, error, strict=True)
        ),
    )


def _in_a_line(text: object) -> str:
    return " ".join(str(text).split())


def stems(asked: Sequence[Asked]) -> list[str]:
    """A file name an image: its own, with what folders they do not all share.

    Its ending stays where another image differs in nothing else.
    """
    paths = [Path(os.path.normpath(one.name)) for one in asked]
    parents = [path.parent.parts for path in paths]
    shared = len(os.path.commonprefix(parents))  # of tuples: whole folders
    named = ["__".join(path.parts[shared:]).lstrip("/") for path in paths]
    bare = [name.removesuffix(Path(name).suffix) for name in named]
    times = collections.Counter(bare)
    found: list[str] = []
    taken: set[str] = set()
    for stem, name in zip(bare, named, strict=True):
        wanted = stem if times[stem] == 1 else name
        tries = itertools.chain([wanted], (f"{wanted}-{k}" for k in itertools.count(2)))
        free = next(one for one in tries if one.casefold() not in taken)
        taken.add(free.casefold())
        found.append(free)
    return found


def _truths(model: Model, asked: Sequence[Asked]) -> np.ndarray:
    unknown = sorted({one.grade for one in asked} - {*model.classes, ""})
    if unknown:
        raise ValueError(
            f"grade: {', '.join(unknown)} not among the model's classes "
            f"({', '.join(model.classes)}). Rename them, or leave the cells empty."
        )
    number = {name: k for k, name in enumerate(model.classes)} | {"": UNKNOWN}
    return np.array([number[one.grade] for one in asked], np.int64)
