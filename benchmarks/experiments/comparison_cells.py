"""Finished cells of the comparison, kept in the repository and put back.

    python benchmarks/experiments/comparison_cells.py restore runs/tables
    python launch.py compare --config=configs/comparison.py --workdir=runs/tables
    python benchmarks/experiments/comparison_cells.py collect runs/tables

`restore` puts the predictions and costs of benchmarks/results/comparison into a folder
of `compare`, which trains the other cells alone. `collect` copies those of the folder
back, with its tables. Neither replaces a file by another one of the same cell.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from fof_jax import files
from fof_jax.training.cells import Cell, Folder

RESULTS = Path(__file__).parents[1] / "results" / "comparison"
TABLES = ("comparison.txt", "comparison.csv", "comparison.json", "cost.csv")


def cell_of(name: str) -> Cell:
    """The cell of a file ROW-SEED-FOLD.csv."""
    row, seed, fold = name.removesuffix(".csv").rsplit("-", 2)
    return Cell(int(seed), int(fold), row)


def copy(source: Path, target: Path) -> bool:
    """Copies a file that is not there yet.

    Raises:
      ValueError: another file is there.
    """
    if target.exists():
        if target.read_bytes() != source.read_bytes():
            raise ValueError(
                f"{target} differs from {source}: one cell was trained twice. Delete "
                "the one that is not wanted."
            )
        return False
    files.write_bytes(target, source.read_bytes())
    return True


def restore(folder: Folder, results: Path) -> int:
    """Number of cells put into a folder of `compare`."""
    costs = json.loads((results / "cost.json").read_text(encoding="utf-8"))
    for row, cost in costs.items():
        if not folder.cost(row).exists():
            files.write_text(folder.cost(row), json.dumps(cost, indent=1) + "\n")
    cells = sorted(results.glob("*-*-*.csv"))
    return sum(copy(p, folder.predictions(cell_of(p.name))) for p in cells)


def collect(folder: Folder, results: Path) -> int:
    """Number of cells taken from a folder of `compare`; its tables replace the old."""
    count = 0
    for path in sorted(folder.root.glob("cells/*/seed_*/fold_*/predictions.csv")):
        row, seed, fold = path.parts[-4:-1]
        name = f"{row}-{seed.removeprefix('seed_')}-{fold.removeprefix('fold_')}.csv"
        count += copy(path, results / name)
    costs = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder.root / "cost").glob("*.json"))
    }
    files.write_text(results / "cost.json", json.dumps(costs, indent=1) + "\n")
    for name in TABLES:
        shutil.copy(folder.root / name, results / name)
    return count


def main(argv: list[str] | None = None) -> None:
    """Copies in one of the two directions, and prints how many cells were new."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("direction", choices=("restore", "collect"))
    flags.add_argument("workdir", type=Path)
    flags.add_argument("--results", type=Path, default=RESULTS)
    args = flags.parse_args(argv)
    action = restore if args.direction == "restore" else collect
    print(f"{action(Folder(args.workdir), args.results)} cells are new")


if __name__ == "__main__":
    main()
