"""Constants, initial values and batches of recordings of CLAT's stage 2."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from fof_jax.methods.distill import clat_student as student
from fof_jax.methods.distill.clat_student import TEACHERS, Memory
from fof_jax.parity.rows import clat_names as names
from fof_jax.parity.rows.clat_rows import Recording, channels_last

BANKS = {"student": "memory_v1", "teacher": "memory_v2"}


def settings_of(z: Recording) -> student.Settings:
    """The constants of a recording.

    Raises:
      ValueError: its divergences have another temperature than 1.
    """
    if float(z["cfg/kd_temperature"]) != 1:
        raise ValueError(
            f"parity: kd_temperature is {float(z['cfg/kd_temperature'])}, expected 1, "
            "the only one that CLAT uses."
        )
    return student.Settings(
        alpha=float(z["cfg/alpha"]),
        beta=float(z["cfg/beta"]),
        temperature=float(np.float32(z["cfg/temperature"])),
        momentum=float(z["cfg/momentum"]),
        cap=float(z["cfg/max_discrepancy"]),
        threshold=float(z["cfg/gradient_threshold"]),
    )


def initial(z: Recording) -> tuple[Any, dict[str, Any]]:
    """Trained parameters, and the state beside them."""
    head, table = names.IMAGE_HEAD, names.MULTIMODAL
    params = {"head": names.parameters(z, "init/model.", head)}
    memories = {}
    for name in TEACHERS:
        prefix = f"init/crd_{name}."
        params[name] = names.parameters(z, prefix, names.EMBEDDINGS)
        constants = z[f"{prefix}contrast.params"]
        memories[name] = Memory(
            *(jnp.asarray(z[f"{prefix}contrast.{bank}"]) for bank in BANKS.values()),
            *map(jnp.float32, constants[2:4]),
        )
    return params, {
        "statistics": names.statistics(z, "init/model.", head),
        "ema": names.parameters(z, "init/ema.", head),
        "ema_statistics": names.statistics(z, "init/ema.", head),
        "teacher": names.parameters(z, "init/teacher.", table),
        "teacher_statistics": names.statistics(z, "init/teacher.", table),
        "memories": memories,
    }


def batch_of(z: Recording, t: int) -> dict[str, Any]:
    """One recorded batch, images channels last."""
    prefix = f"batch{t}/"
    return {
        "image": channels_last(z[f"{prefix}image"]),
        "image_ema": channels_last(z[f"{prefix}image_ema"]),
        "omic": jnp.asarray(z[f"{prefix}omic"]),
        "grade": jnp.asarray(z[f"{prefix}grade"]),
        "index": jnp.asarray(z[f"{prefix}index"]),
        "negatives": jnp.asarray(z[f"{prefix}sample_index"][:, 1:]),
    }
