"""Letters of the paper and the records that pass between the parts of the package.

B images, H x W x C pixels, patch side p, grid h x w = H/p x W/p, P = h w patches,
D encoder width, K grades, N biomarkers, F float markers, M omics columns. Images are
channels last; tokens are row-major over the grid. The views are glb (whole image), pos
(patches that speak for the true grade) and neg (the rest).

The records document the shapes of their fields and do not check them, because JAX
rebuilds records around placeholders. Functions check.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import flax.struct
import jax
import numpy as np

Params = Any  # pytree of float32 arrays
State = Any  # pytree that a method updates besides its parameters; may be {}


@flax.struct.dataclass
class Bag:
    """Patch features of slides, padded to one number of patches T.

    Attributes:
      features: of a frozen encoder, 0 where padded.
      coords: upper left corner (x, y) of each patch in units of a patch side, from the
        smallest of its slide; 0 where padded.
      valid: False where padded. Each bag has at least one valid patch.
    """

    features: Annotated[Any, "float32 [B, T, D]"]
    coords: Annotated[Any, "float32 [B, T, 2]"]
    valid: Annotated[Any, "bool [B, T]"]


@flax.struct.dataclass
class Batch:
    """One global or local batch: NumPy from the loader, jax.Array on a device.

    Fields that a method does not ask for (`Inputs`) may be None.

    Attributes:
      image: pixels. uint8 0-255 from the loader, float32 and normalized after
        augmentation; a method only receives the latter.
      grade: class index, 0 … K-1.
      biomarkers: integer status per biomarker; meaningless where `known` is False.
      known: True where the biomarker was measured. Unknown is a separate boolean
        because -1 is a valid copy number.
      floats: float markers (chromosome arms in the release); F may be 0.
      index: position of the record in its store.
      epoch: epoch in which the record is drawn; with `index` it keys augmentation.
      valid: False on rows that pad an evaluation batch.
      weight: weight of the row's cross-entropy against its grade; None is 1 for all.
      second_view: second view of the record, normalized: another color jitter of the
        same crop, or another crop; None unless the method asks for it.
      omics: molecular vector, standardized by the training fold, 0 where unknown.
      omics_known: True where the entry of `omics` was measured.
      superpixels: label of each pixel of `image`, moved by augmentation with it.
      graph: padded cell graphs, `fof_jax.data.graphs.padding.PaddedGraphs`.
      bag: padded patch features, in the place of `image`, which is None then.
    """

    image: Annotated[Any, "uint8 or float32 [B, H, W, C]"]
    grade: Annotated[Any, "int32 [B]"] = None
    biomarkers: Annotated[Any, "int32 [B, N]"] = None
    known: Annotated[Any, "bool [B, N]"] = None
    floats: Annotated[Any, "float32 [B, F]"] = None
    index: Annotated[Any, "int32 [B]"] = None
    epoch: Annotated[Any, "int32 [B]"] = None
    valid: Annotated[Any, "bool [B]"] = None
    weight: Annotated[Any, "float32 [B] or None"] = None
    second_view: Annotated[Any, "float32 [B, H, W, C] or None"] = None
    omics: Annotated[Any, "float32 [B, M] or None"] = None
    omics_known: Annotated[Any, "bool [B, M] or None"] = None
    superpixels: Annotated[Any, "uint8 [B, H, W] or None"] = None
    graph: Annotated[Any, "padded cell graphs or None"] = None
    bag: Bag | None = None


@flax.struct.dataclass
class Variables:
    """Everything that a method computes with.

    Attributes:
      params: trained by the optimizer.
      state: updated by the method: moving averages, memory banks, batch statistics.
      frozen: constants of the fold, neither differentiated nor saved with each
        checkpoint: a teacher, the statistics that standardize omics.
    """

    params: Params
    state: State
    frozen: Any = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Output:
    """Evaluation output of a method: pooled features and the logits of the K grades."""

    features: Annotated[Any, "float32 [B, D]"]
    logits: Annotated[Any, "float32 [B, K]"]


@flax.struct.dataclass
class LossOutput:
    """Auxiliary output of a loss: scalar metrics to log, and the updated state."""

    metrics: Annotated[Any, "dict of float32 scalars"]
    state: State


@flax.struct.dataclass
class StepContext:
    """What a loss may depend on besides variables and batch.

    Attributes:
      key: random key of the step, the same on every device.
      step: optimizer step, from 0; int32 scalar.
      progress: fraction of the training steps already taken, 0 … 1; float32 scalar.
      gather: local rows [B, …] to the rows of all devices, in order; the identity on
        one device. Everything that enters the scalar loss goes through it, so that
        every device computes the same number and the mean of the devices' gradients
        is the gradient of one device on the global batch.
    """

    key: Annotated[Any, "random key"]
    step: Annotated[Any, "int32 scalar"] = 0
    progress: Annotated[Any, "float32 scalar"] = 0.0
    gather: Callable[[jax.Array], jax.Array] = flax.struct.field(
        pytree_node=False, default=lambda rows: rows
    )


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Names and values of a cohort that determine the shape of a method.

    Attributes:
      classes: names of the K grades.
      biomarkers: names of the N biomarkers.
      float_markers: names of the F float markers.
      omic_names: names of the M omics columns.
      biomarker_values: status of all n records; None where only a trained model is
        rebuilt, whose statistics its config already holds.
    """

    classes: tuple[str, ...]
    biomarkers: tuple[str, ...]
    float_markers: tuple[str, ...]
    omic_names: tuple[str, ...] = ()
    biomarker_values: Annotated[np.ndarray | None, "int [n, N]"] = None
