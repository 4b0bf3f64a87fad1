"""Results in the making: where they are kept, and what a killed run has left."""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fof_jax import files
from fof_jax.inference.inputs import Asked

_FOLDER = ".unfinished"  # below --out, until all is done


@contextlib.contextmanager
def folder_for(
    out: Path, asked: Sequence[Asked], job: dict[str, str]
) -> Iterator[Path]:
    """A folder for what is not yet whole, as the same work has left it.

    Args:
      out: where results go in the end.
      asked: what is looked at.
      job: what else tells this work from other work.

    Yields:
      A folder below `out`, removed when the work is done and kept when it is not.

    Raises:
      ValueError: `out` holds the results of something else.
    """
    folder, note = out / _FOLDER, out / _FOLDER / "job.json"
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
    files.write_text(note, wanted)
    yield folder
    shutil.rmtree(folder)


def keep_whole_rows(rows: Path, head: str, asked: Sequence[Asked]) -> int:
    """Drops what a killed run has half written.

    Args:
      rows: the table in the making; it need not exist.
      head: its first line.
      asked: whose rows it holds, in order.

    Returns:
      The number of rows that are whole.
    """
    text = rows.read_text(encoding="utf-8") if rows.exists() else ""
    text = text[: text.rfind("\n") + 1]  # the last line may be half of one
    names = next(csv.reader([head]))
    kept = []
    for row, one in zip(list(csv.reader(io.StringIO(text)))[1:], asked, strict=False):
        if len(row) != len(names) or row[1] != one.name:
            break
        kept.append(row)
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows([names, *kept])
    files.write_text(rows, stream.getvalue())
    return len(kept)
