"""Grades and focus of many images: what `predict` and `explain` do."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fof_jax import metrics
from fof_jax.data import atomic
from fof_jax.data.table import TableReader
from fof_jax.predictions import UNKNOWN, Predictions, write_predictions
from fof_jax.trained import Focus, Grades, Model

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
PICTURES = "focus"  # folder of PNGs below --out


@dataclasses.dataclass(frozen=True)
class Asked:
    """An image to be graded.

    Attributes:
      path: of the file.
      name: in tables: relative to the folder or the table that it came from.
      patient: whose it is; its own name where nothing says.
      grade: the truth, a class name; "" where unknown.
    """

    path: Path
    name: str
    patient: str
    grade: str = ""


def find(source: Path) -> list[Asked]:
    """The images that a file, a folder or a table names, in order.

    Args:
      source: an image; a folder, searched with the folders below; or a CSV with a
        column `image` (relative to the CSV) and perhaps `patient` and `grade`.

    Raises:
      ValueError: it does not exist or names no image; a table without `image`.
    """
    if source.is_dir():
        files = sorted(
            p
            for p in source.rglob("*")
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
        )
        if not files:
            raise ValueError(
                f"images: {source} holds no {', '.join(SUFFIXES)}. Pass an image, a "
                "folder of images, or a CSV with a column 'image'."
            )
        names = [str(path.relative_to(source)) for path in files]
        return [Asked(p, n, n) for p, n in zip(files, names, strict=True)]
    if not source.exists():
        raise ValueError(
            f"images: {source} does not exist. Pass an image, a folder of images, or "
            "a CSV with a column 'image'."
        )
    if source.suffix.lower() == ".csv":
        return _from_table(source)
    return [Asked(source, source.name, source.name)]


def _from_table(table: Path) -> list[Asked]:
    reader = TableReader(table)
    reader.load()
    reader.need(("image",))
    if reader.faults:
        raise ValueError(
            f"images: {table} cannot be used: "
            + "; ".join(fault.text for fault in reader.faults[:5])
        )
    asked = [
        Asked(
            path=table.parent / cells["image"],
            name=cells["image"],
            patient=cells.get("patient") or cells["image"],
            grade=cells.get("grade", ""),
        )
        for _, cells in reader.lines
    ]
    names = [one.name for one in asked]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"images: {table} names {twice[0]} twice; expected it once.")
    return asked


def predict(
    model: Model,
    asked: Sequence[Asked],
    out: Path,
    *,
    pictures: bool,
    progress: Callable[[int, int], None],
) -> Predictions:
    """Grades every image; one that cannot be read becomes a row with the reason.

    Args:
      model: of `trained.load`.
      asked: of `find`.
      out: folder for predictions.csv, patients.csv and, below it, `PICTURES`.
      pictures: whether each image gets a picture of its focus.
      progress: called with (done, of).

    Returns:
      What predictions.csv holds. Files appear when all is done.

    Raises:
      ValueError: a grade of the table is not among the model's classes.
    """
    y = _truths(model, asked)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Grades] = []
    # One opening of a file for both, where pictures are wanted.
    graded = _with_focus(model, asked, out) if pictures else model.stream(
        one.path for one in asked
    )  # fmt: skip
    for row in graded:
        rows.append(row)
        progress(len(rows), len(asked))
    table = Predictions(
        patient=tuple(one.patient for one in asked),
        image=tuple(one.name for one in asked),
        fold=np.full(len(asked), UNKNOWN),
        y=y,
        prob=np.concatenate([row.prob for row in rows]),
        error=tuple(row.error[0] for row in rows),
    )
    spread = np.concatenate([row.spread for row in rows])
    write_predictions(out / "predictions.csv", table, spread=spread)
    write_predictions(out / "patients.csv", metrics.by_patient(table))
    return table


def explain(
    model: Model,
    asked: Sequence[Asked],
    out: Path,
    *,
    target: str | None,
    progress: Callable[[int, int], None],
) -> list[str]:
    """A picture and an array of A for every image.

    Args:
      model: of `trained.load`.
      asked: of `find`.
      out: folder for NAME.png and NAME.npy (A, float32, [H, W]).
      target: class that A speaks for; None for the predicted one.
      progress: called with (done, of).

    Returns:
      What could not be read, a line an image.

    Raises:
      ValueError: no such class.
    """
    model.index(target)
    out.mkdir(parents=True, exist_ok=True)
    faults = []
    for done, (one, stem) in enumerate(zip(asked, _stems(asked), strict=True), 1):
        try:
            focus = model.explain(one.path, target)
        except (ValueError, OSError) as fault:
            faults.append(f"{one.name}: {fault}")
        else:
            draw(focus, out / f"{stem}.png", model, one.name)
            array = focus.A.astype(np.float32)
            atomic.write_with(out / f"{stem}.npy", lambda file: np.save(file, array))  # noqa: B023
        progress(done, len(asked))
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


def _with_focus(model: Model, asked: Sequence[Asked], out: Path) -> Iterator[Grades]:
    for one, stem in zip(asked, _stems(asked), strict=True):
        try:
            focus = model.explain(one.path)
        except (ValueError, OSError) as fault:
            none = np.full((1, len(model.classes)), np.nan)
            yield Grades(none, none, model.classes, (str(fault),))
            continue
        draw(focus, out / PICTURES / f"{stem}.png", model, one.name)
        yield Grades(focus.prob[None], focus.spread[None], model.classes, ("",))


def _stems(asked: Sequence[Asked]) -> list[str]:
    """A file name an image: its own, with the folders before it; endings at need."""
    named = [
        "__".join(part for part in Path(one.name).parts if part not in ("..", "/"))
        for one in asked
    ]
    bare = [name.removesuffix(Path(name).suffix) for name in named]
    return [
        stem if bare.count(stem) == 1 else name
        for stem, name in zip(bare, named, strict=True)
    ]


def _truths(model: Model, asked: Sequence[Asked]) -> np.ndarray:
    unknown = sorted({one.grade for one in asked} - {*model.classes, ""})
    if unknown:
        raise ValueError(
            f"grade: {', '.join(unknown)} not among the model's classes "
            f"({', '.join(model.classes)}). Rename them, or leave the cells empty."
        )
    number = {name: k for k, name in enumerate(model.classes)} | {"": UNKNOWN}
    return np.array([number[one.grade] for one in asked], np.int64)
