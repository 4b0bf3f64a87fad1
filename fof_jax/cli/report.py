"""Write an HTML report of a run, one self-contained file, and its plots as files.

python launch.py report --workdir=runs/phantom
python launch.py report --workdir=runs/gbmlgg --versus=runs/gbmlgg-baseline
"""

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --workdir, --versus, --fold and the paths."""
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--versus", type=Path, metavar="WORKDIR", help="a second run to compare with"
    )
    parser.add_argument(
        "--fold",
        type=int,
        metavar="K",
        help="fold whose features and regions are shown; default: first finished one",
    )
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="folder of the stores; default: data.dir of the run",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page; default WORKDIR/report.html. Plots go to figures/ beside it",
    )


def run(flags: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    # Imported here: --help does not load JAX and Matplotlib.
    from fof_jax.data import prepare
    from fof_jax.report import build
    from fof_jax.training import workdir as run_folder

    def open_data(config):
        if flags.data_dir is not None:
            config.data.dir = flags.data_dir
        return prepare.prepare(
            config, generate=False, build=run_folder.recorded_build(flags.workdir)
        )

    out = build.report(
        flags.workdir,
        open_data=open_data,
        versus=flags.versus,
        fold=flags.fold,
        out=flags.out,
    )
    print(f"report: {out}")
    return 0
