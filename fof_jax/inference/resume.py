"""Resumable output directories: a staging folder for results of an unfinished job."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fof_jax import files
from fof_jax.inference.inputs import ImageInput

_STAGING = ".unfinished"  # below --out, removed when the job is done


@contextlib.contextmanager
def staging_folder(
    out: Path, images: Sequence[ImageInput], job: Mapping[str, str]
) -> Iterator[Path]:
    """Opens the staging folder of a job, new or left by an interrupted run of it.

    Args:
      out: final output folder.
      images: inputs of the job.
      job: everything else that identifies the job.

    Yields:
      A folder below `out`: removed on success, kept if an exception is raised.

    Raises:
      ValueError: `out` holds results of another job.
    """
    folder = out / _STAGING
    identity = folder / "job.json"
    expected = json.dumps(
        [dict(job), [[one.name, one.patient, one.grade] for one in images]]
    )
    if identity.exists():
        if identity.read_text(encoding="utf-8") != expected:
            raise ValueError(
                f"--out: {out} holds results of another unfinished job (images, "
                "checkpoint or flags differ). Pass another folder, or delete it."
            )
    elif out.exists() and any(out.iterdir()):
        raise ValueError(
            f"--out: {out} is not empty, and existing files are not overwritten. Pass "
            "a new folder, or empty it."
        )
    files.write_text(identity, expected)
    yield folder
    shutil.rmtree(folder)


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
