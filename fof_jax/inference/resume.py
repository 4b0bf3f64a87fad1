"""Resumable output directories: a staging folder for results of an unfinished job."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fof_jax import files
from fof_jax.data.errors import shortened
from fof_jax.inference.inputs import ImageInput
from fof_jax.inference.outputs import STAGING

_JOB, _LOCK = "job.json", "lock"  # below STAGING


@contextlib.contextmanager
def staging_folder(
    out: Path, images: Sequence[ImageInput], job: Mapping[str, str]
) -> Iterator[Path]:
    """Opens the staging folder of a job, new or left by an interrupted run of it.

    A job is resumed if nothing that its results depend on has changed: `job`, which
    identifies the model by a hash, and the images by name, size and time.

    Args:
      out: final output folder.
      images: inputs of the job.
      job: everything else that identifies the job.

    Yields:
      A folder below `out`: removed on success, kept if an exception is raised.

    Raises:
      ValueError: `out` holds results of another job, or another process writes to it.
    """
    folder = out / STAGING
    existing = (folder / _JOB).exists()
    # The lock is in the folder, so that nothing is left in `out` at the end.
    with files.exclusive_lock(
        folder / _LOCK, f"--out: {out}", print, remedy="pass another --out"
    ):
        try:
            _require_same_job(out, _identity(images, job))
        except ValueError:
            if not existing:
                shutil.rmtree(folder)
            raise
        yield folder
        shutil.rmtree(folder)


def _identity(
    images: Sequence[ImageInput], job: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    listed = {
        one.name: [one.patient, one.grade, one.mpp, *_stamp(one.path)] for one in images
    }
    return {"job": dict(job), "images": listed}


def _stamp(path: Path) -> list[int]:
    """Size and time of an image's files: one, or also those of a MIRAX slide."""
    parts = [path]
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        parts += path.with_suffix("").iterdir()
    try:
        stats = [part.stat() for part in parts]
    except OSError:  # a missing image becomes a row with an error
        return []
    return [sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats)]


def _require_same_job(out: Path, identity: dict[str, dict[str, Any]]) -> None:
    """Checks that a folder is new or holds this job; writes its identity if new."""
    path = out / STAGING / _JOB
    if not path.exists():
        if any(existing.name != STAGING for existing in out.iterdir()):
            raise ValueError(
                f"--out: {out} is not empty, and existing files are not overwritten. "
                "Pass a new folder, or empty it."
            )
        files.write_text(path, json.dumps(identity))
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        differences = [
            f"{name}: {before.get(name)} then, {now.get(name)} now"
            for before, now in [(earlier["job"], identity["job"])]
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        before, now = earlier["images"], identity["images"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"--out: {out} holds an unfinished job of another version. Pass another "
            "folder, or delete it."
        ) from None
    if list(before) != list(now):
        new, gone = sorted({*now} - {*before}), sorted({*before} - {*now})
        differences.append(f"images: {len(new)} new, {len(gone)} gone, or reordered")
    changed = [n for n in now if n in before and before[n] != now[n]]
    if changed:
        differences.append(f"images that have changed: {shortened(changed)}")
    if differences:
        raise ValueError(
            f"--out: {out} holds results of another unfinished job, and a table of two "
            "would mix them:\n  "
            + "\n  ".join(differences)
            + "\nPass another folder, or delete it."
        )


def drop_partial_rows(table: Path, header: str, images: Sequence[ImageInput]) -> int:
    """Truncates a table after the last complete row that an interrupted job wrote.

    Args:
      table: the CSV; made with its header if it does not exist.
      header: its first line.
      images: expected rows, in order.

    Returns:
      Number of complete rows.
    """
    text = table.read_text(encoding="utf-8") if table.exists() else ""
    text = text[: text.rfind("\n") + 1]  # the last line may be incomplete
    names = next(csv.reader([header]))
    complete = []
    for row, one in zip(list(csv.reader(io.StringIO(text)))[1:], images, strict=False):
        if len(row) != len(names) or row[1] != one.name:
            break
        complete.append(row)
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows([names, *complete])
    files.write_text(table, stream.getvalue())
    return len(complete)
