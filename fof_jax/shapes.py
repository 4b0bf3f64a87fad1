"""The letters of the paper and the records that travel between the parts.

B images, H x W x C pixels, patch side p, grid h x w = H/p x W/p, P = h w patches,
D encoder width, K grades, N biomarkers, F float markers. Images are channels last;
tokens are row-major over the grid. Records tell the shapes of their fields and do not
check them: JAX rebuilds records around placeholders of its own. Functions check.

Views are glb (the whole image), pos (the
patches that speak for the true grade) and neg (the rest).
"""

from typing import Annotated, Any

import flax.struct

Params = Any  # a pytree of float32 arrays
State = Any  # what a method keeps besides parameters: EMA copies, banks; may be {}
Host = Array | np.ndarray  # NumPy from the loader, jax.Array once it is on a device


@flax.struct.dataclass
class Batch:
    """One global or local batch, as arrays.

    Attributes:
      image: Annotated[Any, "uint8 or float32 [B, H, W, C]"]
    grade: Annotated[Any, "int32 [B]"]
    biomarkers: Annotated[Any, "int32 [B, N]"]
    known: Annotated[Any, "bool [B, N]"]
    floats: Annotated[Any, "float32 [B, F]"]
    index: Annotated[Any, "int32 [B]"]
    epoch: Annotated[Any, "int32 [B]"]
    valid: Annotated[Any, "bool [B]"]
    second_view: Annotated[Any, "float32 [B, H, W, C] or None"] = None


@flax.struct.dataclass
class Variables:
    """What a method owns: `params` are trained, `state` is carried along."""

    params: Params
    state: State


@flax.struct.dataclass
class Aux:
    """What a loss returns beside the scalar: figures to log, and the new state."""

    metrics: Annotated[Any, "dict of float32 scalars"]
    state: State
