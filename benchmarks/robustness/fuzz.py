"""Damages input files and arguments, and counts the outcomes.

    python benchmarks/robustness/fuzz.py --each=500

Inputs: checkpoint, store shard, cohort table, config overrides, recording. One byte is
changed or the end is cut off. No case may end with an error without a message, or give
wrong numbers; in tables and overrides the changed value can be valid. Everything runs
in this process. The last line is JSON.
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
from absl import flags, logging

from benchmarks import conditions
from fof_jax.cli import config as config_flag
from fof_jax.data import (
    cohort,
    prepare,
    store,
)
from fof_jax.data.augment import options
from fof_jax.parity import comparison
from fof_jax.training import (
    build,
    checkpoint,
)
from fof_jax.training import state as training_state

ROOT = Path(__file__).parents[2]
PHANTOM = f"--config={ROOT}/configs/phantom.py"
HANGS_AFTER = 120  # seconds per case; then the stacks are printed and the process exits
REJECTED, UNHARMED, VALID = "rejected with a message", "the same numbers", "valid"
WORDS = [
    "--config.batch_size=4", "--config.epochs=2", "--config.encoder=mu/16",
    "--config.optimizer.learning_rate=1e-4", "--config.data.image_size=64",
    "--config.data.classes=('a','b')", "--config.method=fof", "--config.cam.block=-2",
    "--config.frl=True", "--config.augment.crop_area=(0.7,1.0)",
    "--config.compute_dtype=float32", "--config.remat=none", "--config.fold=0",
]  # fmt: skip
Case = Callable[[random.Random], str]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Changes one byte, or cuts off the end."""
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
        return data[:at]
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


def damage(folder: Path, pattern: str, rng: random.Random) -> None:
    """Damages one of the matching nonempty files."""
    files = [p for p in sorted(folder.rglob(pattern)) if p.is_file()]
    victim = rng.choice([p for p in files if p.stat().st_size])
    victim.write_bytes(damaged(victim.read_bytes(), rng))


def checkpoints(scratch: Path) -> Case:
    """Two steps, the newer one damaged: the older one is restored, or equal numbers."""
    state = training_state.TrainState(
        step=np.int32(1),
        params={"a": np.arange(2000, dtype=np.float32), "b": np.ones((3, 4))},
        state={},
        opt_state=[np.linspace(0, 1, 500)],
    )
    intact = scratch / "intact"
    manager = checkpoint.Checkpoints(intact)
    states = {}
    for step in (1, 2):
        states[step] = jax.tree.map(lambda a, n=step: (a * n).astype(a.dtype), state)
        manager.save(states[step])
    manager.close()

    def case(rng: random.Random) -> str:
        broken, messages = fresh(scratch / "broken", intact), []
        damage(broken / "2", "*", rng)
        opened = checkpoint.Checkpoints(broken, log=messages.append)
        try:
            got = opened.restore(state)
        finally:
            opened.close()
        np.testing.assert_equal(got.params, states[int(got.step)].params)
        np.testing.assert_equal(got.opt_state, states[int(got.step)].opt_state)
        if int(got.step) == 2:
            return UNHARMED
        if not messages:
            raise RuntimeError("used the older step without a message")
        return "the previous one is used, with a message"

    return case


def shards(scratch: Path) -> Case:
    """A store with one damaged shard; all images are read."""
    size = ["--config.data.regions=12", "--config.data.stain=none"]  # unprocessed bytes
    words = [PHANTOM, *size, f"--config.data.dir={scratch}/data"]
    made = prepare.prepare(config_flag.load(words), out=io.StringIO())
    expected = [made.read(i, 64) for i in range(len(made))]

    def case(rng: random.Random) -> str:
        broken = fresh(scratch / "broken", scratch / "data")
        damage(broken, "*.array_record*", rng)
        opened = store.open_store(broken, "phantom")
        got = [opened.read(i, 64) for i in range(len(opened))]
        np.testing.assert_equal(got, expected)
        return UNHARMED

    return case


def tables(scratch: Path) -> Case:
    """A cohort table."""
    from PIL import Image

    lines = ["image,patient,grade,idh"]
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 2 * i, 40)).save(scratch / f"{i}.png")
        lines.append(f"{i}.png,p{i // 2},{('II', 'III', 'IV')[i // 2]},{i // 2 % 2}")
    content = ("\n".join(lines) + "\n").encode()

    def case(rng: random.Random) -> str:
        (scratch / "table.csv").write_bytes(damaged(content, rng))
        read = cohort.read_cohort(
            scratch / "table.csv", classes=("II", "III", "IV"), biomarkers=("idh",)
        )
        return f"{VALID}: {'all' if len(read.rows) == 6 else 'fewer'} rows"

    return case


def overrides(scratch: Path) -> Case:
    """An argument --config.FIELD=VALUE, validated as before training."""
    del scratch

    def case(rng: random.Random) -> str:
        word = rng.choice(WORDS)
        broken = damaged(word.encode(), rng).decode("utf-8", "replace")
        ours, rest = config_flag.separate([PHANTOM, broken])
        if rest:
            raise ValueError(f"unexpected arguments: {rest}")
        config = config_flag.load(ours)
        build.validate(config)
        options.Augmentation(**config.augment.to_dict())
        return VALID

    return case


def golden(scratch: Path) -> Case:
    """A recording for `parity`."""
    content = (ROOT / "tests/golden/paper_a.npz").read_bytes()
    expected = comparison.load(ROOT / "tests/golden/paper_a.npz")

    def case(rng: random.Random) -> str:
        (scratch / "broken.npz").write_bytes(damaged(content, rng))
        got = comparison.load(scratch / "broken.npz")
        # A changed name is an error where the array is read.
        for name in set(got) & set(expected):
            np.testing.assert_equal(got[name], expected[name])
        return UNHARMED if set(got) == set(expected) else "a name is missing"

    return case


KINDS = {
    "checkpoint": checkpoints,
    "store shard": shards,
    "cohort table": tables,
    "config overrides": overrides,
    "golden file": golden,
}


def fresh(folder: Path, like: Path) -> Path:
    """Copies a folder, replacing the previous copy."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(like, folder))


def outcomes(kind: str, each: int, seed: int, scratch: Path) -> dict[str, int]:
    """Number of cases by outcome.

    Raises:
      RuntimeError: a case raised an unexpected exception, or one without a message.
    """
    case = KINDS[kind](scratch)
    counts: collections.Counter[str] = collections.Counter()
    for number in range(each):
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                counts[case(random.Random(f"{seed} {number}"))] += 1
        except (
            ValueError,
            OSError,
        ) as error:  # printed as one line by the command line
            if not str(error):
                raise
            counts[REJECTED] += 1
        except Exception as error:
            raise RuntimeError(f"{kind}, case {number} of seed {seed}") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
    return dict(counts)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    logging.set_verbosity(logging.FATAL)
    result: dict[str, Any] = conditions.conditions() | vars(given)
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as scratch:
            result[kind] = outcomes(kind, given.each, given.seed, Path(scratch))
        print(f"{kind}: {result[kind]}", flush=True)
    conditions.report({}, result)


if __name__ == "__main__":
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    main(sys.argv[1:])
