"""Writes the config of a cohort table: `data init`."""

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fof_jax import files
from fof_jax.data import table_layout
from fof_jax.data.errors import CohortError


def run(
    table: Path | None, *, out: Path | None, chosen: Sequence[str], program: str
) -> int:
    """Writes the config and prints what to check in it, and the next commands.

    Args:
      table: the cohort table.
      out: the config file; None is TABLE's name in configs/, or here without one.
      chosen: NAME=COLUMN for columns that are not recognized by name.
      program: how the commands begin.

    Returns:
      0.

    Raises:
      CohortError: as `table_layout.describe`.
      ValueError: no table, a bad NAME=COLUMN, or the file exists.
    """
    if table is None:
        raise ValueError(
            "data init: no table. Pass it: python launch.py data init T.csv"
        )
    columns: dict[str, str] = {}
    for word in chosen:
        name, equals, column = word.partition("=")
        if not equals:
            raise ValueError(f"--column={word}: expected NAME=COLUMN.")
        columns[name] = column
    layout = table_layout.describe(table, columns)
    path = out or _default_path(table)
    if path.exists():
        raise ValueError(
            f"data init: {path} exists already. Remove it, or pass another --out."
        )
    files.write_text(path, config_text(table, path, layout, program))
    for line in summary(path, layout, program):
        print(line, file=sys.stdout)
    return 0


def config_text(
    table: Path, path: Path, layout: table_layout.Layout, program: str
) -> str:
    """The text of a config file for a table.

    Args:
      table: the cohort table.
      path: of the config file, for its docstring.
      layout: of the table.
      program: how the commands begin.
    """
    fields: dict[str, Any] = {
        "data.table": _portable(table),
        "data.dir": f"data/{path.stem}",
        "data.classes": layout.classes,
        "data.biomarkers": layout.biomarkers,
        "data.biomarkers_per": layout.biomarkers_per,
        "data.words": layout.words,
        "data.image_size": layout.image_size,
        "folds": layout.folds,
    }
    if not layout.words:
        del fields["data.words"]
    if layout.ungraded:
        fields["data.ungraded"] = "skip"
    if "fold" in layout.columns:
        fields["data.scheme"] = "fold"
    if layout.smallest_fold < 4:  # the paper's batch
        fields["batch_size"] = layout.smallest_fold
    for name, column in layout.columns.items():
        if column != name:
            fields[f"data.columns.{name}"] = column
    assignments = "\n".join(
        f"    config.{k} = {_literal(v)}" for k, v in fields.items()
    )
    size = f"{layout.regions} images of {layout.patients} patients"
    return f'''"""Cohort of {table.name}: {size}.

    {program} data build --config={_quoted(path)}
    {program} --config={_quoted(path)}

Arguments as in configs/cohort.py.
"""

from fof_jax.configs import cohort


def get_config(arg: str = ""):
    """The paper's method on this cohort."""
    config = cohort.get_config(arg)
{assignments}
    return config
'''


def summary(path: Path, layout: table_layout.Layout, program: str) -> list[str]:
    """Lines for the terminal: what was recognized, and the next commands."""
    file, workdir = _quoted(path), _quoted(f"runs/{path.stem}")
    order = "ascending" if layout.ordered else "their order is not known"
    lines = [
        f"config: {path}",
        f"  columns: {', '.join(f'{n} = {c}' for n, c in layout.columns.items())}",
        f"  classes: {', '.join(layout.classes)} ({order}; change it there)",
        f"  biomarkers: {', '.join(layout.biomarkers) or 'none, so L_MCA is off'}"
        + (f" (per {layout.biomarkers_per})" if layout.biomarkers else ""),
    ]
    if layout.words:
        lines += [f"  words: {', '.join(layout.words)} (nothing: unknown)"]
    if layout.ungraded:
        lines += [f"  rows without a grade, left out: {layout.ungraded}"]
    lines += [f"  not used: {name} ({why})" for name, why in layout.others.items()]
    return [
        *lines,
        f"  image_size {layout.image_size}, {layout.folds} folds",
        "next:",
        f"  {program} data build --config={file}",
        f"  {program} --config={file}",
        f"  {program} report --workdir={workdir}",
    ]


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))


def _portable(table: Path) -> str:
    """Relative to the working directory where the table lies below it."""
    relative = Path(os.path.relpath(table))
    return str(table.absolute() if relative.parts[:1] == ("..",) else relative)


def _literal(value: Any) -> str:
    """Python source of a value, a long tuple with one element per line."""
    if not isinstance(value, tuple):
        return json.dumps(value, ensure_ascii=False)
    words = [json.dumps(word, ensure_ascii=False) for word in value]
    line = f"({', '.join(words)}{',' * (len(words) == 1)})"
    if len(line) < 60:
        return line
    return "(\n" + "".join(f"        {word},\n" for word in words) + "    )"


def _default_path(table: Path) -> Path:
    name = re.sub(r"\W+", "_", table.stem).strip("_").lower()
    if not name:
        raise CohortError(f"data init: no file name from {table}. Pass --out=NAME.py.")
    folder = Path("configs") if Path("configs").is_dir() else Path()
    return folder / f"{name}.py"
