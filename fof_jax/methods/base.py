"""Protocol of a method: what training and inference know of it.

A row of the paper's tables is one file with a class that fits `Method` and a function
`build(config, info) -> Method` that reads its config fields. `registry.py` finds it by
name. Methods whose input is an image and that have a map also fit `Explainer`.
"""

import dataclasses
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fof_jax.models.vit_classifier import ViTClassifier
from fof_jax.types import (
    Bag,
    Batch,
    LossOutput,
    Output,
    Params,
    State,
    StepContext,
    Variables,
)

Modality = Literal["image", "omics", "biomarkers", "floats", "graph", "bag"]


class Inputs(NamedTuple):
    """Fields of a batch that a method reads.

    Attributes:
      train: modalities that the loss reads.
      test: modalities that `apply` reads; ("image",) for image-only methods.
      second_view: how `Batch.second_view` differs from `Batch.image`: "color" is
        another color jitter of the same crop, "crop" another crop; None for no second
        view.
      superpixels: about how many `Batch.superpixels` has per image in training; 0 for
        none.
    """

    train: tuple[Modality, ...]
    test: tuple[Modality, ...]
    second_view: Literal["color", "crop"] | None = None
    superpixels: int = 0


@runtime_checkable
class Method(Protocol):
    """One way to learn grades."""

    @property
    def inputs(self) -> Inputs:
        """Fields of a batch that it reads."""
        ...

    @property
    def num_classes(self) -> int:
        """K."""
        ...

    def init(self, key: jax.Array, batch: Batch, frozen: Params) -> Variables:
        """Initializes the variables.

        Args:
          key: of the initialization.
          batch: only the shapes of its fields are read.
          frozen: constants, and the variables of earlier stages; passed through.
        """

    def loss(
        self, variables: Variables, batch: Batch, ctx: StepContext
    ) -> tuple[Float[Array, ""], LossOutput]:
        """Loss of the global batch.

        Args:
          variables: of `init`: parameters, state and constants.
          batch: this device's rows, normalized.
          ctx: step and progress; a key for dropout and negatives; and `gather`, which
            collects the rows of all devices.

        Returns:
          The scalar, and metrics with the new state. The state has to be equal on all
          devices: compute it from gathered rows.
        """

    def update_state(self, variables: Variables, step: Int[Array, ""]) -> State:
        """State after optimizer step `step` (from 0), e.g. moving averages."""

    def apply(self, variables: Variables, batch: Batch) -> Output:
        """Evaluation: features, and logits whose softmax is the prediction."""


class FixedState:
    """A method whose state changes in its loss alone, or never."""

    def update_state(self, variables: Variables, step: Int[Array, ""]) -> State:
        """The state, unchanged."""
        del step
        return variables.state


@runtime_checkable
class Explainer(Protocol):
    """A method with a class activation map over the patches of an image."""

    def class_activation_map(
        self,
        variables: Variables,
        image: Float[Array, "B H W C"],
        target: Int[Array, " B"],
    ) -> Float[Array, "B H W"]:
        """Map A of the evidence for class `target`, in [0, 1]."""

    def patch_mask(self, cam: Float[Array, "B H W"]) -> Bool[Array, "B h w"]:
        """Mask M of the patches that the positive view keeps for a map."""

    def vit_classifier(self, variables: Variables) -> ViTClassifier:
        """The trained network as `fof_jax.explainers` differentiates it."""


@runtime_checkable
class Aligner(Protocol):
    """A method with a projection head h^n for each biomarker."""

    def biomarker_projections(
        self, variables: Variables, features: Float[Array, "R D"]
    ) -> Float[Array, "N R E"]:
        """Projections of features, in the order of the config's biomarkers."""


@runtime_checkable
class BagExplainer(Protocol):
    """A method with a map over the patches of a bag."""

    def bag_map(
        self, variables: Variables, bag: Bag, target: Int[Array, " B"]
    ) -> Float[Array, "B T"]:
        """Map of the evidence for class `target`, in [0, 1]; 0 on padding."""


def network_input(batch: Batch) -> Float[Array, "B H W C"] | Bag:
    """What an encoder reads of a batch: its images, or its bags."""
    return batch.image if batch.bag is None else batch.bag


def example_input(batch: Batch) -> Float[Array, "B H W C"] | Bag:
    """One image or bag of zeros, whose shapes determine those of the parameters."""
    if batch.bag is None:
        return jnp.zeros((1, *batch.image.shape[1:]), jnp.float32)
    return Bag(
        features=jnp.zeros((1, 1, batch.bag.features.shape[2]), jnp.float32),
        coords=jnp.zeros((1, 1, 2), jnp.float32),
        valid=jnp.ones((1, 1), bool),
    )


def parameter_count(params: Params) -> int:
    """Number of trained scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def standardize(batch: Batch, frozen: Params) -> Batch:
    """Inputs with mean 0 and standard deviation 1 on the training fold.

    Args:
      batch: `omics` raw, NaN where unknown; `bag` with features as in the file. What a
        batch does not have stays None.
      frozen: statistics of the fold. "omics" with `mean` and `std` [M] of known
        entries; "features" as in `standardize_bag`.

    Returns:
      The batch with `omics`, 0 where unknown, `omics_known` and `bag` as a method reads
      them.
    """
    if batch.bag is not None:
        batch = dataclasses.replace(batch, bag=standardize_bag(batch.bag, frozen))
    if batch.omics is None:
        return batch
    statistics = frozen["omics"]
    known = jnp.isfinite(batch.omics)
    mean, std = (jnp.asarray(statistics[name])[None] for name in ("mean", "std"))
    scaled = (batch.omics - mean) / std  # [B, M]
    scaled = jnp.where(known, scaled, 0.0)
    return dataclasses.replace(batch, omics=scaled, omics_known=known)


def standardize_bag(bag: Bag, frozen: Params) -> Bag:
    """A bag whose features have mean 0 and standard deviation 1 on the training fold.

    Args:
      bag: features as in the file.
      frozen: "features" with `mean` and `std` [D]; without it the bag stays as it is.
    """
    if "features" not in frozen:
        return bag
    statistics = frozen["features"]
    mean, std = (jnp.asarray(statistics[n])[None, None] for n in ("mean", "std"))
    scaled = (bag.features - mean) / std  # [B, T, D]
    valid = jnp.asarray(bag.valid)[..., None]
    return dataclasses.replace(bag, features=jnp.where(valid, scaled, 0.0))
