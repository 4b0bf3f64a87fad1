"""Compare this program with recordings of the objective, number by number.

python launch.py parity --golden=tests/golden/paper_a.npz --golden=…/paper_b.npz
"""

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--golden, repeated for more."""
    parser.add_argument(
        "--golden",
        action="append",
        type=Path,
        required=True,
        metavar="FILE",
        help="a recording (.npz); repeat the flag for more",
    )


def run(flags: argparse.Namespace) -> int:
    """0 if every quantity of every recording is within its tolerance, else 1."""
    from fof_jax import parity

    good = True
    for path in flags.golden:
        rows = parity.replay(path)
        print(parity.table(path.name, rows), flush=True)
        good &= all(row.ok for row in rows)
    return 0 if good else 1
