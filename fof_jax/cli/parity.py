"""Compare with recordings of the references, or with the authors' code run live.

python launch.py parity --golden=tests/golden/paper_a.npz --golden=…/release_a.npz
python launch.py parity --release=FoF --python=VENV/bin/python --steps=5

The kind of a recording is detected from its arrays. `--python` is an interpreter with
torch, transformers 4.46 and grad-cam; it does not need this package.
"""

import argparse
import sys
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --golden, --release and the flags of live comparisons."""
    parser.add_argument(
        "--golden",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="a recording (.npz); repeat the flag for more",
    )
    live = parser.add_argument_group("live comparison with peterlipan/FoF")
    live.add_argument("--release", type=Path, metavar="FOLDER", help="its checkout")
    live.add_argument(
        "--python",
        default=sys.executable,
        metavar="EXE",
        help="interpreter to run it; default: this one",
    )
    live.add_argument("--steps", type=int, default=5, help="optimizer steps; default 5")
    live.add_argument("--batch", type=int, default=4, help="images per step; default 4")
    live.add_argument(
        "--images",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="input image; repeat the flag for more; default: random images",
    )
    live.add_argument("--image_size", type=int, default=64, help="pixels; default 64")
    live.add_argument("--encoder", default="mu/8", help="variant; default mu/8")
    live.add_argument("--seed", type=int, default=0, help="of weights and inputs")


def run(flags: argparse.Namespace) -> int:
    """0 if all quantities are within their tolerances, else 1."""
    if not flags.golden and flags.release is None:
        raise ValueError(
            "parity: nothing to compare with. Pass --golden=FILE.npz, or "
            "--release=FOLDER with a checkout of the authors' code."
        )
    from fof_jax.parity import comparison

    passed = True
    for path in flags.golden:
        rows = replay(path, others=flags.golden)
        print(comparison.table(path.name, rows), flush=True)
        passed &= all(row.ok for row in rows)
    if flags.release is not None:
        rows = live_rows(flags)
        print(comparison.table(f"{flags.release}, live", rows), flush=True)
        passed &= all(row.ok for row in rows)
    return 0 if passed else 1


def replay(path: Path, *, others: list[Path]) -> list:
    """Comparison rows of a recording: of the paper, the release or another method."""
    from fof_jax.evaluation import metrics
    from fof_jax.parity import comparison, paper_replay
    from fof_jax.parity import release_replay as release
    from fof_jax.parity.rows import clat, distillation, encoders, fusion, pathgcn

    recording = comparison.load(path)
    if release.kind(recording) is not None:
        return release.replay(path, others=others, scores=metrics.scores)
    for family in (clat, distillation, encoders, fusion, pathgcn):
        if family.recognizes(recording):
            return family.replay(recording)
    return paper_replay.replay(path)


def live_rows(flags: argparse.Namespace) -> list:
    """Comparison rows of a live run.

    Raises:
      ValueError: a number out of range, no checkout, or missing packages.
    """
    from fof_jax.models import vit
    from fof_jax.parity import live

    for name in ("steps", "batch", "image_size"):
        if getattr(flags, name) < 1:
            raise ValueError(
                f"--{name}: got {getattr(flags, name)}, expected 1 or more."
            )
    live.check(flags.release)
    size, patch = vit.parse_variant(flags.encoder)
    vit.grid((flags.image_size, flags.image_size), patch)
    inputs = live.random_inputs(
        size=size,
        patch=patch,
        image=flags.image_size,
        batch=flags.batch,
        steps=flags.steps,
        seed=flags.seed,
        images=_read_images(flags.images, flags.image_size),
    )
    return live.compare(flags.release, inputs, python=flags.python)[0]


def _read_images(paths: list[Path], image_size: int):
    """Images [n, S, S, 3], normalized as in training; None without images."""
    if not paths:
        return None
    import jax.numpy as jnp
    import numpy as np

    from fof_jax.data import squares
    from fof_jax.data.augment import pipeline

    pixels = [
        squares.decode_region(
            path.read_bytes(), image_size, small="resize", name=str(path)
        )
        for path in paths
    ]
    return np.asarray(pipeline.normalize(jnp.asarray(np.stack(pixels))))
