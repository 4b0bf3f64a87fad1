"""The ViT over a bag: features of patches in the place of their pixels.

A linear layer embeds each feature, and the coordinates of a patch give its position.
Blocks, attention and pooling are the ViT's. Padding is a segment of its own, so that no
patch attends to it, and no mean includes it.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from fof_jax.models import vit
from fof_jax.models.vit_block import KERNEL_INIT, apply_to_rows
from fof_jax.types import Bag

SUFFIX = "/features"  # of a config's encoder: Ti/features
POSITIONS = ("sincos", "none")
LONGEST = 10_000.0  # of the wavelengths over 2 pi, in patches; Vaswani et al. 2017


def is_known(name: str) -> bool:
    """Whether a config's encoder reads bags."""
    return name.endswith(SUFFIX)


def parse_variant(name: str) -> vit.Size:
    """Size of an encoder such as "Ti/features".

    Raises:
      ValueError: unknown size, or one with registers, which bags do not have.
    """
    size, _, _ = name.rpartition(SUFFIX)
    sizes = [known for known, one in vit.SIZES.items() if not one.registers]
    if size not in sizes:
        raise ValueError(
            f"encoder: {name!r} is not a variant. Expected SIZE{SUFFIX} with SIZE one "
            f"of {', '.join(sizes)}, e.g. 'mu{SUFFIX}'."
        )
    return vit.SIZES[size]


def sincos_positions(
    coords: Float[Array, "B T 2"], width: int
) -> Float[Array, "B T D"]:
    r"""Sine-cosine embedding of positions in the plane.

    A quarter of the channels each for :math:`\sin x\omega_i, \cos x\omega_i,
    \sin y\omega_i, \cos y\omega_i` with :math:`\omega_i = 10000^{-i / (D / 4)}`.

    Args:
      coords: x, y in units of a patch side; need not be whole.
      width: D, a multiple of 4.

    Source: Vaswani et al. 2017, Sec. 3.5, for each axis; two dimensions as in Chen, Xie
    and He, MoCo v3 (2021).
    """
    quarter = width // 4
    omega = LONGEST ** -(jnp.arange(quarter, dtype=jnp.float32) / quarter)
    angle = coords[..., None] * omega[None, None, None]  # [B, T, 2, D / 4]
    both = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=3)  # [B, T, 2, 2, D / 4]
    return both.reshape(*coords.shape[:2], width)


class BagViT(vit.ViT):
    """ViT whose patches are features with coordinates; any number of them.

    Attributes:
      patch, image_size: not used; a patch is a token.
      positions: "sincos" of the coordinates, or "none".
    """

    patch: int = 1
    image_size: tuple[int, int] = (1, 1)
    positions: str = "sincos"

    def setup(self) -> None:
        """Declares the parameters; those of the blocks have a leading layer axis."""
        self._check_fields()
        check_positions(self.positions, self.size.width)
        self.embedding = nn.Dense(
            self.size.width, dtype=self.compute_dtype, kernel_init=KERNEL_INIT
        )
        self.blocks = self.param("blocks", self._init_blocks)
        self.norm = nn.LayerNorm(
            epsilon=self.layer_norm_eps, dtype=jnp.float32, use_fast_variance=False
        )

    def embed(self, image: Float[Array, "B H W C"] | Bag) -> Float[Array, "B T D"]:
        """Linear embedding of the features, without positions."""
        if not isinstance(image, Bag):
            raise ValueError(
                "encoder: got an image, expected a bag of features. Train on a table "
                "of HDF5 files (configs/slides.py), or pass an encoder of images, "
                "--config.encoder=SIZE/PATCH."
            )
        return apply_to_rows(self.embedding, jnp.asarray(image.features))

    def add_position(
        self, tokens: Float[Array, "B T D"], bag: Bag | None = None
    ) -> Float[Array, "B T D"]:
        """Adds the positions of the bag's coordinates: input of block 0."""
        if self.positions == "sincos":
            if bag is None:
                raise ValueError("add_position: a bag's tokens need its coordinates.")
            at = sincos_positions(jnp.asarray(bag.coords), self.size.width)
            tokens = tokens + at.astype(tokens.dtype)
        return lax.stop_gradient(tokens) if self.frozen_blocks else tokens


def check_positions(positions: str, width: int) -> None:
    """Checks the positions of an encoder.

    Raises:
      ValueError: no such positions, or a width that they do not divide.
    """
    if positions not in POSITIONS:
        raise ValueError(
            f"bags.positions: got {positions!r}, expected one of "
            f"{', '.join(POSITIONS)}. Pass another --config.bags.positions."
        )
    if positions == "sincos" and width % 4:
        raise ValueError(
            f"bags.positions: sincos needs a width that is a multiple of 4, the "
            f"encoder's is {width}. Pass --config.bags.positions=none."
        )


def valid_of(image: Float[Array, "B H W C"] | Bag) -> Bool[Array, "B T"] | None:
    """Valid patches of a bag; None for images, all of whose patches are."""
    return jnp.asarray(image.valid) if isinstance(image, Bag) else None


def segments_of(valid: Bool[Array, "B T"] | None) -> Int[Array, "B T"] | None:
    """Segments that keep valid patches and padding apart in the attention."""
    return None if valid is None else valid.astype(jnp.int32)


def bag_of(image: Float[Array, "B H W C"] | Bag) -> Bag | None:
    """The bag, for `add_position`; None for images."""
    return image if isinstance(image, Bag) else None
