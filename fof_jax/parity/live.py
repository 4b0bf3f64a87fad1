"""Compares training with a checkout of the authors' code, step by step.

The checkout runs in a child process under an interpreter given by the user. The child
writes a recording in the layout of the files in tests/golden, which is then replayed.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from fof_jax.methods.release import method as release_method
from fof_jax.methods.release import state_dict
from fof_jax.models import vit
from fof_jax.parity import release_recording, release_steps
from fof_jax.parity.comparison import Row, load

CHILD = Path(__file__).with_name("live_child.py")
NEEDED_FILES = ("models/encoder.py", "utils/cam_helper.py", "utils/train_validate.py")


def compare(
    checkout: str | os.PathLike[str],
    inputs: release_recording.Recording,
    *,
    python: str = sys.executable,
    timeout: float = 3600.0,
) -> tuple[list[Row], dict[str, np.ndarray]]:
    """Runs the authors' code and this package on the same weights and batches.

    Args:
      checkout: checkout of peterlipan/FoF.
      inputs: see `inputs_from`.
      python: interpreter with torch, transformers 4.46 and grad-cam.
      timeout: seconds after which the authors' code is stopped.

    Returns:
      The parity table, and the recording of the authors' code.

    Raises:
      ValueError: not a checkout, a missing package, or a child process that failed or
        timed out.
    """
    theirs = record(checkout, inputs, python=python, timeout=timeout)
    return release_steps.replay_case(theirs), theirs


def record(
    checkout: str | os.PathLike[str],
    inputs: release_recording.Recording,
    *,
    python: str = sys.executable,
    timeout: float = 3600.0,
) -> dict[str, np.ndarray]:
    """Runs the authors' training loop on `inputs`; arguments as in `compare`."""
    check(checkout)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **inputs)  # type: ignore[arg-type]
        command = [python, str(CHILD), str(checkout), str(source), str(target)]
        try:
            child = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False
            )
        except FileNotFoundError as error:
            raise ValueError(
                f"--python: {python} does not exist. Pass an interpreter with torch, "
                "transformers 4.46 and grad-cam."
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"The authors' code took more than {timeout:.0f} s. Pass fewer steps "
                "or smaller images."
            ) from error
        if child.returncode or not target.is_file():
            last = (child.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"The authors' code failed under {python}: {last}")
        return load(target)


def check(checkout: str | os.PathLike[str]) -> None:
    """Checks that a folder is a checkout of the authors' code.

    Raises:
      ValueError: a file is missing.
    """
    missing = [f for f in NEEDED_FILES if not (Path(checkout) / f).is_file()]
    if missing:
        raise ValueError(
            f"{checkout}: {missing[0]} does not exist. Expected a checkout of "
            "github.com/peterlipan/FoF."
        )


def inputs_from(
    images: np.ndarray,
    second: np.ndarray,
    grade: np.ndarray,
    genes: np.ndarray,
    floats: np.ndarray,
    *,
    size: vit.Size,
    patch: int,
    num_classes: int = 3,
    steps: int,
    lr: float = 1e-4,
    warmup: int = 1,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Initial weights and batches in the layout of a recording.

    Args:
      images, second: both color views, normalized, float32 [n, B, S, S, 3]; step t
        uses batch t mod n.
      grade: [n, B].
      genes: integer status [n, B, N].
      floats: [n, B, F].
      size, patch: dimensions and patch size of the encoder.
      num_classes: K; the authors' code assumes 3.
      steps: number of optimizer steps.
      lr, warmup: of the schedule, which ends at `steps`. Without warmup, the first
        step of Adam moves each element by the whole rate in the direction of its
        gradient; a gradient near 0 is rounding noise, so that single elements may
        differ by twice the rate.
      seed: seed of the weights.
    """
    side = images.shape[2]
    cfg = {
        "hidden": size.width,
        "layers": size.depth,
        "heads": size.heads,
        "mlp": size.mlp,
        "image": side,
        "patch": patch,
        "batch": images.shape[1],
        "num_classes": num_classes,
        "nbatch": images.shape[0],
        "steps": steps,
        "lr": lr,
        "warmup": warmup,
        "total": steps,
        "layer_norm_eps": 1e-12,
    }
    z = {f"cfg/{name}": np.asarray(value) for name, value in cfg.items()}
    for n in range(images.shape[0]):
        views = {"view1": images[n], "view2": second[n]}
        for name, view in views.items():
            z[f"batch{n}/{name}"] = view.transpose(0, 3, 1, 2).astype(np.float32)
        z[f"batch{n}/grade"] = grade[n].astype(np.int64)
        z[f"batch{n}/dis_gene"] = genes[n].astype(np.int64)
        z[f"batch{n}/float_gene"] = floats[n].astype(np.float32)
    method: release_method.Release = release_recording.method_of(z)
    batch = release_recording.batch_of(z, 0)
    variables = jax.jit(method.init)(jax.random.key(seed), batch, {})
    named = state_dict.to_state_dict(variables, patch=patch)
    return z | {f"init/{name}": np.ascontiguousarray(a) for name, a in named.items()}


def random_inputs(
    *,
    size: vit.Size,
    patch: int,
    image: int,
    batch: int,
    steps: int,
    warmup: int = 1,
    seed: int = 0,
    images: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """`inputs_from` with random labels, and with given or random images.

    Args:
      size, patch: dimensions and patch size of the encoder.
      image: image side S.
      batch, steps: images per step, and number of steps.
      warmup: see `inputs_from`.
      seed: random seed.
      images: normalized images [n, S, S, 3], used in turn; None generates smooth
        noise, so that the maps have some structure.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(2, steps, batch, 4, 4, 3))
    scale = -(-image // 4)
    fine = coarse.repeat(scale, axis=3).repeat(scale, axis=4)[:, :, :, :image, :image]
    views = fine + 0.3 * rng.normal(size=fine.shape)
    if images is not None:
        index = np.arange(steps * batch).reshape(steps, batch) % len(images)
        views[0] = images[index]
    return inputs_from(
        views[0],
        views[0] + 0.2 * views[1],
        rng.integers(0, 3, (steps, batch)),
        rng.integers(-2, 3, (steps, batch, 6)),
        rng.normal(size=(steps, batch, 4)),
        size=size,
        patch=patch,
        steps=steps,
        warmup=warmup,
        seed=seed,
    )
