"""The letters of the paper and the records that travel between the parts.

B images, H x W x C pixels, patch side p, grid h x w = H/p x W/p, P = h w patches,
D encoder width, K grades, N biomarkers, F float markers. Images are channels last;
tokens are row-major over the grid. Views are glb (the whole image), pos (the patches
that speak for the true grade) and neg (the rest).

Records tell the shapes of their fields and do not check them: JAX rebuilds records
around placeholders of its own. Functions check.
"""

from typing import Annotated, Any

import flax.struct

Params = Any  # a pytree of float32 arrays
State = Any  # what a method keeps besides parameters: EMA copies, banks; may be {}


@flax.struct.dataclass
class Batch:
    """One global or local batch: NumPy from the loader, jax.Array on a device.

    Attributes:
      image: pixels. uint8 0-255 as the loader gives them; float32, normalised, once
        `data.augment` has run. A method sees the latter only.
      grade: class index, 0 … K-1.
      biomarkers: integer status per biomarker; meaningless where `known` is False.
      known: True where the biomarker was measured. Unknown is a boolean beside the
        value because -1 is a copy number.
      floats: float markers (chromosome arms in the release); F may be 0.
      index: stable position of the record in its store.
      epoch: epoch in which the record is drawn; with `index` it keys augmentation.
      valid: False on rows that only fill an evaluation batch up.
      weight: of a row's cross-entropy against its grade; None is 1 for all.
      second_view: the same crop under a second colour draw, normalised; None for
        methods that ask for one colour view.
    """

    image: Annotated[Any, "uint8 or float32 [B, H, W, C]"]
    grade: Annotated[Any, "int32 [B]"]
    biomarkers: Annotated[Any, "int32 [B, N]"]
    known: Annotated[Any, "bool [B, N]"]
    floats: Annotated[Any, "float32 [B, F]"]
    index: Annotated[Any, "int32 [B]"]
    epoch: Annotated[Any, "int32 [B]"]
    valid: Annotated[Any, "bool [B]"]
    weight: Annotated[Any, "float32 [B] or None"] = None
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
