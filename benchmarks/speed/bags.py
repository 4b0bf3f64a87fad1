"""Time and memory of bags against their number of patches, on the CPU.

    python benchmarks/speed/bags.py                  # 1,000 … 20,000 patches of D 1536
    python benchmarks/speed/bags.py --counts 20000 --encoder=nano/features

For each number N of patches: an HDF5 file with random features is written, checked,
read whole and predicted, with its map (Eq. (1)); and a training step of FoF is done on
a batch of such bags, capped as in configs/slides.py. Weights are random, which changes
neither. The peak is that of the process up to then, with compilation.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.conditions import conditions, peak_gib, report, timed
from fof_jax.configs import slides
from fof_jax.data.bags import layouts, padding, reading
from fof_jax.methods import registry
from fof_jax.training import optimizer, state
from fof_jax.types import Bag, Batch, DatasetInfo

COUNTS = (1000, 2000, 5000, 10000, 20000)
INFO = DatasetInfo(("II", "III", "IV"), ("idh", "codeletion"), ())


def write(path: Path, count: int, width: int) -> None:
    """A file as TRIDENT lays it out, of patches in a square."""
    rng = np.random.default_rng(count)
    at = np.arange(count)
    side = int(np.ceil(np.sqrt(count)))
    with layouts.hdf5().File(path, "w") as file:
        file["features"] = rng.standard_normal((count, width), np.float32)
        file["coords"] = 512 * np.stack([at % side, at // side], axis=1)
        file["coords"].attrs["patch_size_level0"] = 512


def read(path: Path) -> reading.BagValues:
    """The file, checked."""
    return reading.read(path, reading.check(path))


def train_batch(values: reading.BagValues, size: int, most: int) -> Batch:
    """A batch of samples of one bag."""
    bags = []
    for i in range(size):
        at = padding.sample(len(values.features), most, (0, i, 0))
        at = slice(None) if at is None else at
        bags.append(reading.BagValues(values.features[at], values.coords[at]))
    longest = padding.bucket(min(len(values.features), most))
    return Batch(
        image=None,
        bag=padding.pad(bags, longest),
        grade=np.arange(size, dtype=np.int32) % 3,
        biomarkers=np.zeros((size, 2), np.int32),
        known=np.ones((size, 2), bool),
        index=np.arange(size, dtype=np.int32),
    )


def measure(path: Path, config: Any) -> dict[str, float]:
    """Seconds of reading, prediction, map and step, each once; and the peak."""
    method: Any = registry.create(config, INFO)
    found = {"read_s": timed(lambda: read(path), 1, warmups=0)["wall_s"]}
    values = read(path)
    longest = padding.bucket(len(values.features))
    bag: Bag = jax.tree.map(jnp.asarray, padding.pad([values], longest))
    adamw = optimizer.from_config(config)
    batch = train_batch(values, config.batch_size, config.data.max_tokens)
    start = state.initial_state(method, adamw, jax.random.key(0), batch)
    variables, target = start.variables({}), jnp.zeros(1, jnp.int32)
    schedule = state.Schedule(learning_rate=np.float32(1e-3))
    programs: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "predict": (
            lambda v, b: method.apply(v, Batch(image=None, bag=b)).logits,
            (variables, bag),
        ),
        "map": (method.bag_map, (variables, bag, target)),
        "step": (
            functools.partial(state.update, method, adamw),
            (start, batch, schedule, {}, jax.random.key(0)),
        ),
    }
    for name, (function, arguments) in programs.items():
        compiled = jax.jit(function).lower(*arguments).compile()
        call = functools.partial(compiled, *arguments)
        once = timed(call, 1, warmups=0)
        found |= {f"{name}_s": once["wall_s"], f"{name}_cpu_s": once["cpu_s"]}
    return found | {"padded": longest, "peak_gib": peak_gib()}


def main(argv: list[str] | None = None) -> None:
    """Measures each number of patches, smallest first."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    flags.add_argument("--width", type=int, default=1536, help="D")
    flags.add_argument("--encoder", default="mu/features")
    flags.add_argument("--batch", type=int, default=4, help="of the training step")
    args = flags.parse_args(argv)
    config = slides.get_config()
    config.encoder, config.batch_size = args.encoder, args.batch
    report(conditions(), {"encoder": args.encoder, "width": args.width})
    with tempfile.TemporaryDirectory() as folder:
        for count in sorted(args.counts):
            path = Path(folder) / f"{count}.h5"
            write(path, count, args.width)
            found = measure(path, config)
            path.unlink()
            report({"patches": count}, {k: round(v, 3) for k, v in found.items()})


if __name__ == "__main__":
    main()
