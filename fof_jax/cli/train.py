"""Train and test every fold of a configuration.

python launch.py --config=configs/gbmlgg.py --workdir=runs/gbmlgg
python launch.py --config=configs/phantom.py --config.seed=1 --config.fold=0
"""

import argparse
import contextlib
import sys
from pathlib import Path

from fof_jax.cli import config as config_flag


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--workdir and --config."""
    config_flag.describe(parser)
    parser.add_argument(
        "--workdir",
        type=Path,
        help="folder of the run; default runs/<config>[-<argument>]",
    )


def run(flags: argparse.Namespace) -> int:
    """All folds, then the table."""
    config = config_flag.load(flags.config_words)
    # Imported here: --help and a misspelt field should not wait for JAX.
    import jax

    from fof_jax import crossval, program
    from fof_jax.cli import stores

    # Accelerators do not look at it. Where JAX has started already (a notebook), its
    # devices stand as they are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)

    workdir = flags.workdir or default_workdir(config_flag.name_of(flags.config_words))
    program.check(config)
    store = stores.prepare(config)
    crossval.run(config, store, workdir, say=_say)
    print(f"results: {workdir / 'results.json'}")
    return 0


def default_workdir(name: str) -> Path:
    """runs/<config>[-<argument>] for a name such as phantom:baseline."""
    return Path("runs") / name.replace(":", "-")


def _say(line: str) -> None:
    print(line, flush=True, file=sys.stdout)
