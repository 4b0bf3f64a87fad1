"""Grades and focus of many images: what `predict` and `explain` do.

What is done is written as it is done, into a folder that does not look finished: a
table below a hidden name, and a note of what was asked. The same command goes on from
there; the tables get their names when all is done.
"""

import collections
import contextlib
import csv
import functools
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fof_jax import metrics
from fof_jax.data import atomic
from fof_jax.data.listing import Asked
from fof_jax.predictions import (
    UNKNOWN,
    Predictions,
    as_csv,
    read_predictions,
    write_predictions,
)
from fof_jax.trained import Focus, Grades, Model

PICTURES = "focus"  # folder of PNGs below --out
_UNFINISHED = ".unfinished"  # folder below --out, until all is done
Progress = Callable[[int, int], None]


def predict(
    model: Model,
    asked: Sequence[Asked],
    out: Path,
    *,
    pictures: bool,
    progress: Progress,
    job: Mapping[str, str] | None = None,
) -> Predictions:
    """Grades every image; one that cannot be read becomes a row with the reason.

    Args:
      model: of `trained.load`.
      asked: of `listing.find`.
      out: folder for predictions.csv, patients.csv and, below it, `PICTURES`.
      pictures: whether each image gets a picture of its focus.
      progress: called with (done, of), of those that were not done before.
      job: what else tells this work from other work, such as the checkpoint.

    Returns:
      What predictions.csv holds; its notes say who is not in patients.csv.

    Raises:
      ValueError: a grade of the table is not among the model's classes; the folder
        holds something else.
    """
    y = _truths(model, asked)
    named = {"verb": "predict", "pictures": str(pictures), **(job or {})}
    with _unfinished(out, asked, named) as folder:
        rows = folder / "predictions.csv"
        none = _none(model, 0)
        drawn = out / PICTURES if pictures else None
        head = as_csv(_table([], y[:0], none, ()), spread=none)
        first = _keep_whole_rows(rows, head, asked)
        left = list(zip(asked, _stems(asked), strict=True))[first:]
        with rows.open("a", encoding="utf-8", newline="") as file:
            for i, row in enumerate(_graded(model, left, drawn), first):
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
      model: of `trained.load`.
      asked: of `listing.find`.
      out: folder for NAME.png and NAME.npy (A, float32, [H, W]).
      target: class that A speaks for; None for the predicted one.
      progress: called with (done, of), of those that were not done before.
      job: see `predict`.

    Returns:
      What could not be read, a line an image.

    Raises:
      ValueError: no such class; the folder holds something else.
    """
    model.index(target)
    faults = []
    named = {"verb": "explain", "target": str(target), **(job or {})}
    with _unfinished(out, asked, named):
        left = [
            (one, stem)
            for one, stem in zip(asked, _stems(asked), strict=True)
            if not (out / f"{stem}.npy").exists()  # the last of its files
        ]
        for done, (one, stem) in enumerate(left, 1):
            try:
                focus = model.explain(one.path, target)
            except (ValueError, OSError) as fault:
                faults.append(f"{one.name}: {_in_a_line(fault)}")
            else:
                draw(focus, out / f"{stem}.png", model, one.name)
                save = functools.partial(np.save, arr=focus.A.astype(np.float32))
                atomic.write_with(out / f"{stem}.npy", save)
            progress(done, len(left))
    return faults


def draw(focus: Focus, path: Path, model: Model, name: str) -> None:
    """The picture of one image's focus."""
    from fof_jax import pictures  # Matplotlib: not for who wants tables alone

    k = model.classes.index(focus.target)
    spread = f" ± {focus.spread[k]:.2f}" if len(model.folds) > 1 else ""
    pictures.focus_picture(
        path,
        pixels=focus.pixels,
        A=focus.A,
        keep=focus.keep,
        title=f"{name}: grade {focus.target}, p = {focus.prob[k]:.2f}{spread}",
    )


def _graded(
    model: Model, asked: Sequence[tuple[Asked, str]], pictures: Path | None
) -> Iterator[Grades]:
    """A row an image, in order; with a picture each where a folder is given."""
    if pictures is None:
        yield from model.stream(one.path for one, _ in asked)
        return
    for one, stem in asked:
        try:
            # One opening of a file for both.
            focus = model.explain(one.path)
        except (ValueError, OSError) as fault:
            none = _none(model, 1)
            yield Grades(none, none, model.classes, (str(fault),))
            continue
        draw(focus, pictures / f"{stem}.png", model, one.name)
        yield Grades(focus.prob[None], focus.spread[None], model.classes, ("",))


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
        error=tuple(map(_in_a_line, error)),
    )


def _in_a_line(text: object) -> str:
    return " ".join(str(text).split())


@contextlib.contextmanager
def _unfinished(
    out: Path, asked: Sequence[Asked], job: dict[str, str]
) -> Iterator[Path]:
    """A folder for what is not yet whole, as the same work has left it.

    Raises:
      ValueError: `out` holds the results of something else.
    """
    folder, note = out / _UNFINISHED, out / _UNFINISHED / "job.json"
    wanted = json.dumps([job, [[one.name, one.patient, one.grade] for one in asked]])
    if note.exists():
        if note.read_text(encoding="utf-8") != wanted:
            raise ValueError(
                f"--out: {out} holds an unfinished piece of other work (images, "
                "checkpoint or flags differ). Pass another folder, or delete it."
            )
    elif out.exists() and any(out.iterdir()):
        raise ValueError(
            f"--out: {out} is not empty, and nothing there is overwritten. Pass a new "
            "folder, or empty it."
        )
    atomic.write_text(note, wanted)
    yield folder
    shutil.rmtree(folder)


def _keep_whole_rows(rows: Path, head: str, asked: Sequence[Asked]) -> int:
    """Drops what a killed run has half written; the number of rows that are whole."""
    text = rows.read_text(encoding="utf-8") if rows.exists() else ""
    names = next(csv.reader([head]))
    kept = []
    for row, one in zip(list(csv.reader(io.StringIO(text)))[1:], asked, strict=False):
        if len(row) != len(names) or row[1] != one.name:
            break
        kept.append(row)
    if not text.endswith("\n"):
        kept = kept[:-1]
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows([names, *kept])
    atomic.write_text(rows, stream.getvalue())
    return len(kept)


def _stems(asked: Sequence[Asked]) -> list[str]:
    """A file name an image: its own, with what folders they do not all share.

    Its ending stays where another image differs in nothing else.
    """
    paths = [Path(os.path.normpath(one.name)) for one in asked]
    shared = os.path.commonpath([path.parent for path in paths])
    named = ["__".join(path.relative_to(shared).parts) for path in paths]
    bare = [name.removesuffix(Path(name).suffix) for name in named]
    times = collections.Counter(bare)
    stems: list[str] = []
    taken: set[str] = set()
    for stem, name in zip(bare, named, strict=True):
        wanted = stem if times[stem] == 1 else name
        tries = itertools.chain([wanted], (f"{wanted}-{k}" for k in itertools.count(2)))
        free = next(one for one in tries if one.casefold() not in taken)
        taken.add(free.casefold())
        stems.append(free)
    return stems


def _truths(model: Model, asked: Sequence[Asked]) -> np.ndarray:
    unknown = sorted({one.grade for one in asked} - {*model.classes, ""})
    if unknown:
        raise ValueError(
            f"grade: {', '.join(unknown)} not among the model's classes "
            f"({', '.join(model.classes)}). Rename them, or leave the cells empty."
        )
    number = {name: k for k, name in enumerate(model.classes)} | {"": UNKNOWN}
    return np.array([number[one.grade] for one in asked], np.int64)
