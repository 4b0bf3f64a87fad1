"""One page about a run, that opens from disk, and its figures as files.

python launch.py report --workdir=runs/phantom
python launch.py report --workdir=runs/gbmlgg --versus=runs/gbmlgg-baseline
"""

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--workdir, --versus and where things are."""
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--versus", type=Path, metavar="WORKDIR", help="a second run, shown beside it"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the page; default WORKDIR/report.html. Figures go to figures/ beside it",
    )


def run(flags: argparse.Namespace) -> int:
    """Writes the page and says where."""
    # Imported here: --help should not wait for Matplotlib.
    from fof_jax.report import build

    out = build.report(flags.workdir, versus=flags.versus, out=flags.out)
    print(f"report: {out}")
    return 0
