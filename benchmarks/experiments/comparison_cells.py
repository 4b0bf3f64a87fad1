"""Finished cells of the comparison, kept in the repository and put back.

    C=--config=configs/comparison.py
    python launch.py compare $C --workdir=runs/tables --rows=vit,fof --folds=2,3,4
    python benchmarks/experiments/comparison_cells.py restore runs/tables
    python launch.py compare $C --workdir=runs/tables --rows=vit,fof   # writes tables
    python benchmarks/experiments/comparison_cells.py collect runs/tables
    python benchmarks/experiments/comparison_cells.py show            # Markdown

`restore` puts the predictions and costs of benchmarks/results/comparison beside those
of a folder of `compare`, after it has trained what is missing: it trains no further
cell of a row whose other cells alone are there. `collect` copies those of the folder
back, with its tables. Neither replaces a file by another one of the same cell. `show`
prints the collected tables as docs/results.md and, with --short, README.md have them.
With `--table=T.csv`, a cohort's table, images and patients are numbers in the kept
cells, because a cohort's own names are not ours to publish: an image's row of the
table, a patient's place in the order of names.
"""

import argparse
import csv
import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from fof_jax import files
from fof_jax.data.csv_reader import TableReader
from fof_jax.data.errors import raise_errors
from fof_jax.evaluation import published
from fof_jax.evaluation.comparison_tables import NAMES
from fof_jax.training.cells import Cell, Folder

REFERENCES = ("fof", "vit")
RESULTS = Path(__file__).parents[1] / "results" / "comparison"
TABLES = ("comparison.txt", "comparison.csv", "comparison.json", "cost.csv")


def cell_of(name: str) -> Cell:
    """The cell of a file ROW-SEED-FOLD.csv."""
    row, seed, fold = name.removesuffix(".csv").rsplit("-", 2)
    return Cell(int(seed), int(fold), row)


@dataclasses.dataclass(frozen=True)
class Names:
    """Replacements of names in the columns `image` and `patient` of predictions."""

    image: dict[str, str] = dataclasses.field(default_factory=dict)
    patient: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def numbers(cls, table: Path) -> "Names":
        """Numbers in the place of the names of a cohort's table."""
        reader = TableReader(table)
        reader.load()
        reader.require(("image", "patient"))
        raise_errors(table, reader.errors)
        rows = [cells for _, cells in reader.lines]
        patients = sorted({row["patient"] for row in rows})
        return cls(
            image={row["image"]: str(i) for i, row in enumerate(rows)},
            patient={name: str(i) for i, name in enumerate(patients)},
        )

    def reversed(self) -> "Names":
        """Names in the place of the numbers."""
        return Names(
            image={number: name for name, number in self.image.items()},
            patient={number: name for name, number in self.patient.items()},
        )

    def replaced(self, predictions: bytes, path: Path) -> bytes:
        """The text of a predictions file with other names.

        Raises:
          ValueError: the file has a name that the table lacks.
        """
        if not self.image:
            return predictions
        header, *rows = csv.reader(io.StringIO(predictions.decode(), newline=""))
        for column, other in (("image", self.image), ("patient", self.patient)):
            at = header.index(column)
            for row in rows:
                if row[at] not in other:
                    raise ValueError(
                        f"{path}: {column} {row[at]} is not in --table. Give the table "
                        "that the cells were trained on."
                    )
                row[at] = other[row[at]]
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue().encode()


def copy(source: Path, target: Path, names: Names) -> bool:
    """Copies a file that is not there yet.

    Raises:
      ValueError: another file is there, or has names that are not in `names`.
    """
    content = names.replaced(source.read_bytes(), source)
    if target.exists():
        if target.read_bytes() != content:
            raise ValueError(
                f"{target} differs from {source}: one cell was trained twice. Delete "
                "the one that is not wanted."
            )
        return False
    files.write_bytes(target, content)
    return True


def restore(folder: Folder, results: Path, names: Names) -> int:
    """Number of cells put into a folder of `compare`."""
    costs = json.loads((results / "cost.json").read_text(encoding="utf-8"))
    for row, cost in costs.items():
        if not folder.cost(row).exists():
            files.write_text(folder.cost(row), json.dumps(cost, indent=1) + "\n")
    cells = sorted(results.glob("*-*-*.csv"))
    names = names.reversed()
    return sum(copy(p, folder.predictions(cell_of(p.name)), names) for p in cells)


def collect(folder: Folder, results: Path, names: Names) -> int:
    """Number of cells taken from a folder of `compare`; its tables replace the old."""
    count = 0
    for path in sorted(folder.root.glob("cells/*/seed_*/fold_*/predictions.csv")):
        row, seed, fold = path.parts[-4:-1]
        name = f"{row}-{seed.removeprefix('seed_')}-{fold.removeprefix('fold_')}.csv"
        count += copy(path, results / name, names)
    costs = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder.root / "cost").glob("*.json"))
    }
    files.write_text(results / "cost.json", json.dumps(costs, indent=1) + "\n")
    for name in TABLES:
        shutil.copy(folder.root / name, results / name)
    return count


def show(results: Path, *, short: bool) -> str:
    """The collected tables as Markdown, rows in the paper's order, in percent."""
    document = json.loads((results / "comparison.json").read_text(encoding="utf-8"))
    costs = json.loads((results / "cost.json").read_text(encoding="utf-8"))
    parts = []
    for table in ("I", "II"):
        rows = [row for row in document["rows"] if row["table"] == table]
        if short:
            names = ("row", "folds", "AUC", "accuracy")
            lines = [_figures(row, ("auc", "accuracy")) for row in rows]
        else:
            names = ("row", "folds", *NAMES.values())
            names += tuple(f"paper: {name}" for name in NAMES.values())
            lines = [[*_figures(row, NAMES), *_published(row)] for row in rows]
        parts.append(f"Table {table}:\n\n{_markdown(names, lines)}")
    if not short:
        unique = {row["row"]: row for row in document["rows"]}.values()
        names = ("row", "AUC less FoF", "p", "AUC less Baseline", "p")
        names += ("GFLOP a step", "seconds a step")
        lines = [[*_differences(row), *_cost(costs.get(row["row"]))] for row in unique]
        parts.append(f"Differences and costs:\n\n{_markdown(names, lines)}")
    return "\n\n".join(parts)


def _figures(row: dict[str, Any], metrics: Iterable[str]) -> list[str]:
    """Name, folds, and mean ± standard deviation of metrics."""
    cells = [published.name_of(row["row"]), str(len(row["cells"]))]
    for metric in metrics:
        score = row["scores"].get(metric)
        text = f"{100 * score['mean']:.1f}" if score else ""
        if score and score["std"] is not None:
            text += f" ± {100 * score['std']:.1f}"
        cells.append(text)
    return cells


def _published(row: dict[str, Any]) -> list[str]:
    """The paper's figures of a row, in its order; empty where it has none."""
    pairs = ((row["paper_percent"] or {}).get(metric) for metric in NAMES)
    return [f"{pair[0]:.2f} ± {pair[1]:.2f}" if pair else "" for pair in pairs]


def _differences(row: dict[str, Any]) -> list[str]:
    """Name, and the differences in AUC to both references."""
    cells = [published.name_of(row["row"])]
    for reference in REFERENCES:
        one = row["differences"].get(reference, {}).get("auc")
        if one is None:
            cells += ["", ""]
            continue
        value, low, high = (100 * one[name] for name in ("value", "low", "high"))
        cells += [f"{value:+.1f} ({low:+.1f}, {high:+.1f})", f"{one['p_holm']:.3f}"]
    return cells


def _cost(cost: dict[str, Any] | None) -> list[str]:
    """GFLOP and seconds of a step."""
    return [f"{cost['step_gflop']:.1f}", f"{cost['step_s']:.2f}"] if cost else ["", ""]


def _markdown(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(map(_line, (names, ["---"] * len(names), *rows)))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(argv: list[str] | None = None) -> None:
    """Copies in one of two directions and prints how many cells were new, or shows."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("direction", choices=("restore", "collect", "show"))
    flags.add_argument("workdir", type=Path, nargs="?")
    flags.add_argument("--short", action="store_true", help="`show`: as in README.md")
    flags.add_argument("--results", type=Path, default=RESULTS)
    flags.add_argument("--table", type=Path, help="cohort whose names become numbers")
    args = flags.parse_args(argv)
    if args.direction == "show":
        print(show(args.results, short=args.short))
        return
    if args.workdir is None:
        flags.error(f"{args.direction}: expected the folder of `compare`")
    action = restore if args.direction == "restore" else collect
    names = Names.numbers(args.table) if args.table else Names()
    print(f"{action(Folder(args.workdir), args.results, names)} cells are new")


if __name__ == "__main__":
    main()
