"""Table of ViT variants that a config can name."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """Dimensions of a ViT variant.

    Attributes:
      width, depth, heads: D, number of blocks, number of attention heads.
      mlp: hidden width of the MLP; width of the gate and of the value if gated.
      layer_scale: whether the blocks have LayerScale.
      swiglu: whether the MLP is SwiGLU, silu(gate) * value, instead of GELU.
      registers: number of register tokens.
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
# 2023, swiglu: the gated MLP of their largest model at L's width (two thirds of 4096,
# rounded up to a multiple of 8); mu: for tests; nano: for small bags and images.
SIZES = {
    "nano": Size(width=32, depth=2, heads=2, mlp=64),
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


def parse_variant(name: str) -> tuple[Size, int]:
    """Parses a name such as "Ti/16" into its size and the patch side in pixels.

    Raises:
      ValueError: malformed name or unknown size.
    """
    size, _, patch = name.partition("/")
    if size not in SIZES or not patch.isdigit() or int(patch) < 1:
        raise ValueError(
            f"encoder: {name!r} is not a variant. Expected SIZE/PATCH with SIZE one of "
            f"{', '.join(SIZES)} and PATCH a positive number of pixels, e.g. 'Ti/16'."
        )
    return SIZES[size], int(patch)
