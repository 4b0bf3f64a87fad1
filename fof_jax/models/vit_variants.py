"""The encoders that a config can name: their numbers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """The numbers of one variant.

    Attributes:
      width, depth, heads: D, blocks, attention heads.
      mlp: hidden width of the MLP; of one half of it where it is gated.
      layer_scale: whether a learned vector scales what each half of a block adds.
      swiglu: whether the MLP is silu(gate) * value instead of one GELU.
      registers: learned tokens that are neither patches nor the class token.
    """

    width: int
    depth: int
    heads: int
    mlp: int
    layer_scale: bool = False
    swiglu: bool = False
    registers: int = 0


_S = Size(width=384, depth=12, heads=6, mlp=1536)
_B = Size(width=768, depth=12, heads=12, mlp=3072)
_L = Size(width=1024, depth=24, heads=16, mlp=4096)
# Ti and S: Touvron et al. 2021 (DeiT) and Steiner et al. 2021, Table 2; B and L:
# Dosovitskiy et al. 2021, Table 1; DINOv2: Oquab et al. 2023, registers Darcet et al.
# 2023, with the gated MLP of their largest model at L's width (two thirds of 4096, up
# to a multiple of 8); mu: our tests.
SIZES = {
    "mu": Size(width=64, depth=4, heads=2, mlp=256),
    "Ti": Size(width=192, depth=12, heads=3, mlp=768),
    "S": _S,
    "B": _B,
    "L": _L,
    "DINOv2-S": dataclasses.replace(_S, layer_scale=True),
    "DINOv2-B": dataclasses.replace(_B, layer_scale=True),
    "DINOv2-L": dataclasses.replace(_L, layer_scale=True),
    "DINOv2-S+reg": dataclasses.replace(_S, layer_scale=True, registers=4),
    "DINOv2-B+reg": dataclasses.replace(_B, layer_scale=True, registers=4),
    "DINOv2-L+reg": dataclasses.replace(_L, layer_scale=True, registers=4),
    "DINOv2-L+swiglu": dataclasses.replace(_L, layer_scale=True, swiglu=True, mlp=2736),
}


def variant(name: str) -> tuple[Size, int]:
    """Reads a name such as "Ti/16" into its size and the patch side in pixels.

    Raises:
      ValueError: the name has another form or an unknown size.
    """
    size, _, patch = name.partition("/")
    if size not in SIZES or not patch.isdigit() or int(patch) < 1:
        raise ValueError(
            f"encoder: {name!r} is not a variant. Expected SIZE/PATCH with SIZE one of "
            f"{', '.join(SIZES)} and PATCH a positive number of pixels, e.g. 'Ti/16'."
        )
    return SIZES[size], int(patch)
