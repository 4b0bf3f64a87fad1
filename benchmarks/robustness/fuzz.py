"""Damages files and words by one byte or a cut, and lists what comes of it.

    python benchmarks/robustness/fuzz.py --each=500

Kinds: checkpoint, store shard, cohort table, config overrides, golden file. Nothing
may end in an error without a message of ours, and nothing that is damaged may give
other numbers; for tables and overrides another value can be a legal one. Everything
runs in this process. The last line is JSON.
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

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags, logging  # noqa: E402

from benchmarks import conditions  # noqa: E402
from fof_jax.cli import config as config_flag  # noqa: E402
from fof_jax.data import (
    cohort,
    prepare,  # noqa: E402
    store,  # noqa: E402
)
from fof_jax.data.augment import options
from fof_jax.parity import comparison
from fof_jax.training import (
    build,  # noqa: E402
    checkpoint,
)
from fof_jax.training import state as training_state

ROOT = Path(__file__).parents[2]
PHANTOM = f"--config={ROOT}/configs/phantom.py"
HANGS_AFTER = 120  # seconds in one case; then the stacks are printed and all ends
REFUSED, UNHARMED, LEGAL = "refused with a message", "the same numbers", "legal"
WORDS = [
    "--config.batch_size=4", "--config.epochs=2", "--config.encoder=mu/16",
    "--config.optimizer.learning_rate=1e-4", "--config.data.image_size=64",
    "--config.data.classes=('a','b')", "--config.method=fof", "--config.cam.block=-2",
    "--config.frl=True", "--config.augment.crop_area=(0.7,1.0)",
    "--config.compute_dtype=float32", "--config.remat=none", "--config.fold=0",
]  # fmt: skip
Case = Callable[[random.Random], str]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One byte of the data is another, or the end is missing."""
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
        return data[:at]
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


def damage(folder: Path, pattern: str, rng: random.Random) -> None:
    """Damages one of the files that match and are not empty."""
    files = [p for p in sorted(folder.rglob(pattern)) if p.is_file()]
    victim = rng.choice([p for p in files if p.stat().st_size])
    victim.write_bytes(damaged(victim.read_bytes(), rng))


def checkpoints(scratch: Path) -> Case:
    """Two steps, the newer one damaged: the older one is read, or the same numbers."""
    state = training_state.TrainState(
        step=np.int32(1),
        params={"a": np.arange(2000, dtype=np.float32), "b": np.ones((3, 4))},
        state={},
        opt_state=[np.linspace(0, 1, 500)],
    )
    sound = scratch / "sound"
    kept = checkpoint.Checkpoints(sound)
    states = {}
    for step in (1, 2):
        states[step] = jax.tree.map(lambda a, n=step: (a * n).astype(a.dtype), state)
        kept.save(states[step])
    kept.close()

    def case(rng: random.Random) -> str:
        hurt, said = fresh(scratch / "hurt", sound), []
        damage(hurt / "2", "*", rng)
        opened = checkpoint.Checkpoints(hurt, say=said.append)
        try:
            got = opened.restore(state)
        finally:
            opened.close()
        np.testing.assert_equal(got.params, states[int(got.step)].params)
        np.testing.assert_equal(got.opt_state, states[int(got.step)].opt_state)
        if int(got.step) == 2:
            return UNHARMED
        if not said:
            raise RuntimeError("fell back without a word")
        return "the one before is used, with a message"

    return case


def shards(scratch: Path) -> Case:
    """Every image of a store, one of whose shards is damaged."""
    size = ["--config.data.regions=12", "--config.data.stain=none"]  # the bytes alone
    words = [PHANTOM, *size, f"--config.data.dir={scratch}/data"]
    made = prepare.prepare(config_flag.load(words), out=io.StringIO())
    want = [made.read(i, 64) for i in range(len(made))]

    def case(rng: random.Random) -> str:
        hurt = fresh(scratch / "hurt", scratch / "data")
        damage(hurt, "*.array_record*", rng)
        opened = store.open_store(hurt, "phantom")
        got = [opened.read(i, 64) for i in range(len(opened))]
        np.testing.assert_equal(got, want)
        return UNHARMED

    return case


def tables(scratch: Path) -> Case:
    """A cohort's table."""
    from PIL import Image

    lines = ["image,patient,grade,idh"]
    for i in range(6):
        Image.new("RGB", (8, 8), (i, 2 * i, 40)).save(scratch / f"{i}.png")
        lines.append(f"{i}.png,p{i // 2},{('II', 'III', 'IV')[i // 2]},{i // 2 % 2}")
    whole = ("\n".join(lines) + "\n").encode()

    def case(rng: random.Random) -> str:
        (scratch / "table.csv").write_bytes(damaged(whole, rng))
        read = cohort.read_cohort(
            scratch / "table.csv", classes=("II", "III", "IV"), biomarkers=("idh",)
        )
        return f"{LEGAL}: {'all' if len(read.rows) == 6 else 'fewer'} rows"

    return case


def overrides(scratch: Path) -> Case:
    """A word --config.FIELD=VALUE, up to the point where training would begin."""
    del scratch

    def case(rng: random.Random) -> str:
        word = rng.choice(WORDS)
        hurt = damaged(word.encode(), rng).decode("utf-8", "replace")
        ours, rest = config_flag.separate([PHANTOM, hurt])
        if rest:
            raise ValueError(f"words left over: {rest}")
        config = config_flag.load(ours)
        build.check(config)
        options.Augmentation(**config.augment.to_dict())
        return LEGAL

    return case


def golden(scratch: Path) -> Case:
    """The arrays of a recording."""
    whole = (ROOT / "tests/golden/paper_a.npz").read_bytes()
    want = comparison.load(ROOT / "tests/golden/paper_a.npz")

    def case(rng: random.Random) -> str:
        (scratch / "hurt.npz").write_bytes(damaged(whole, rng))
        got = comparison.load(scratch / "hurt.npz")
        # A name that is another is missed by whoever asks for it, with a message.
        for name in set(got) & set(want):
            np.testing.assert_equal(got[name], want[name])
        return UNHARMED if set(got) == set(want) else "a name is missing"

    return case


KINDS = {
    "checkpoint": checkpoints,
    "store shard": shards,
    "cohort table": tables,
    "config overrides": overrides,
    "golden file": golden,
}


def fresh(folder: Path, like: Path) -> Path:
    """A copy of a folder, in place of the one before."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(like, folder))


def outcomes(kind: str, each: int, seed: int, scratch: Path) -> dict[str, int]:
    """How often what came of it.

    Raises:
      Exception: anything but an error with a message of ours; it names the case.
    """
    case = KINDS[kind](scratch)
    counts: collections.Counter[str] = collections.Counter()
    for number in range(each):
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                counts[case(random.Random(f"{seed} {number}"))] += 1
        except (ValueError, OSError) as error:  # what the command line tells in a line
            if not str(error):
                raise
            counts[REFUSED] += 1
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
