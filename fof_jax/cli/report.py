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
        "--fold",
        type=int,
        metavar="K",
        help="whose model and regions are pictured; default the first finished one",
    )
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="where the stores are now; default what data.dir was in training",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page; default WORKDIR/report.html. Figures go to figures/ beside it",
    )


def run(flags: argparse.Namespace) -> int:
    """Writes the page and says where."""
    # Imported here: --help should not wait for JAX and Matplotlib.
    from fof_jax.data import prepare
    from fof_jax.report import build

    def open_data(config):
        if flags.data_dir is not None:
            config.data.dir = flags.data_dir
        return prepare.prepare(config, draw=False)

    out = build.report(
        flags.workdir,
        open_data=open_data,
        versus=flags.versus,
        fold=flags.fold,
        out=flags.out,
    )
    print(f"report: {out}")
    return 0
