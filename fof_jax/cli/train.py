"""Train and test every fold of a configuration.

python launch.py --config=configs/gbmlgg.py --workdir=runs/gbmlgg
python launch.py --config=configs/phantom.py --config.seed=1 --config.fold=0

On several hosts, run the same command on each with its own --process_id:
python launch.py --config=configs/gbmlgg.py --workdir=/shared/run \\
    --coordinator=10.0.0.1:1234 --process_id=0 --num_processes=2
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from fof_jax.cli import allocator, terminal
from fof_jax.cli import config as config_flag
from fof_jax.data.progress import Out


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --config, --workdir and the flags of multi-host runs."""
    config_flag.add_help(parser)
    parser.add_argument(
        "--workdir",
        type=Path,
        help="folder of the run; default runs/<config>[-<argument>]",
    )
    several = parser.add_argument_group("several hosts")
    several.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="of process 0; auto for SLURM, Open MPI and TPU pods",
    )
    several.add_argument("--process_id", type=int, metavar="K", help="from 0")
    several.add_argument("--num_processes", type=int, metavar="N")
    several.add_argument(
        "--heartbeat_timeout",
        type=int,
        default=60,
        metavar="SECONDS",
        help="a process that is silent for longer counts as lost; default 60",
    )


def run(flags: argparse.Namespace) -> int:
    """Trains and tests the folds, then prints the results."""
    config = config_flag.load(flags.config_words)
    allocator.keep_freed_memory(one_arena=config.cpu_devices == 1)
    # Imported here: --help and config errors do not load JAX.
    import jax

    from fof_jax.training import multihost

    # Ignored on accelerators. RuntimeError: JAX is already initialized (a notebook),
    # and keeps its devices.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)

    workdir = flags.workdir or default_workdir(config_flag.name_of(flags.config_words))
    multihost.connect(
        flags.coordinator,
        flags.process_id,
        flags.num_processes,
        timeout=flags.heartbeat_timeout,
    )
    screen = terminal.Terminal()
    log = screen if multihost.is_main_process() else _discard
    out = sys.stdout if multihost.is_main_process() else io.StringIO()
    with _noted(screen), multihost.translate_lost_process():
        _train(config, workdir, log, out)
        log(f"results: {workdir / 'results.json'}")
        multihost.barrier("done")
    return 0


def train(
    config: str | ConfigDict,
    workdir: str | Path,
    fields: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Trains and tests every fold, as the command `train` does in one process.

    Args:
      config: NAME[:ARGUMENT] of a configuration, a path of one, or what
        `cli.config.load` returns.
      workdir: folder of the run; a stopped run in it is resumed.
      fields: values of fields by name, such as {"data.regions": 200}; only with a name
        or a path.

    Returns:
      The content of results.json: metrics of regions and patients over the finished
      folds.

    Raises:
      ValueError: a field, a value or the data are not valid, or fields are given with
        a ConfigDict.
    """
    if isinstance(config, ConfigDict):
        if fields:
            raise ValueError(
                "train: got fields and a ConfigDict, expected fields only with the "
                "name of a config. Set the values in the ConfigDict."
            )
        loaded = config
    else:
        values = [f"--config.{name}={value}" for name, value in (fields or {}).items()]
        loaded = config_flag.load([f"--config={config}", *values])
    screen = terminal.Terminal()
    with _noted(screen):
        return _train(loaded, Path(workdir), screen, sys.stdout)


def _train(
    config: ConfigDict, workdir: Path, log: Callable[[str], None], out: Out
) -> dict[str, Any]:
    """Checks the config, prepares the data and trains."""
    from fof_jax.data import prepare
    from fof_jax.training import build, crossval, init_weights, multihost
    from fof_jax.training import workdir as run_folder

    with multihost.raise_on_all():
        build.validate(config)
        recorded = run_folder.recorded_build(workdir)
        store = prepare.prepare(config, out=out, build=recorded)
        init_weights.require_checkpoint(config.init.checkpoint)
    return crossval.run(config, store, workdir, log=log)


@contextlib.contextmanager
def _noted(screen: terminal.Terminal) -> Iterator[None]:
    """Keeps what ends the run among its lines."""
    try:
        yield
    except BaseException as error:
        screen.note(f"{type(error).__name__}: {error}")
        raise


def default_workdir(name: str) -> Path:
    """runs/<config>[-<argument>] for a name such as phantom:baseline."""
    return Path("runs") / name.replace(":", "-")


def _discard(line: str) -> None:
    del line
