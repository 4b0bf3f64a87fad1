"""Measure what a configuration costs: parameters, FLOPs, time and memory.

python launch.py cost --config=configs/phantom.py
python launch.py cost --config=configs/comparison.py:distill.pkt --out=cost.json

One training step and the prediction of one batch, on one device, with the data of the
configuration. Nothing is trained.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from fof_jax.cli import allocator
from fof_jax.cli import config as config_flag


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --config and --out."""
    config_flag.add_help(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")


def run(flags: argparse.Namespace) -> int:
    """Measures and prints, and optionally writes JSON."""
    config = config_flag.load(flags.config_words)
    allocator.keep_freed_memory(one_arena=True)  # as `train` on one CPU device
    import jax

    from fof_jax import files
    from fof_jax.data import prepare
    from fof_jax.training import build, cost

    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", 1)
    build.validate(config)
    measured = cost.measure(config, prepare.prepare(config, out=sys.stderr))
    text = json.dumps(measured, indent=1)
    if flags.out is not None:
        files.write_text(flags.out, text + "\n")
    print(text)
    return 0
