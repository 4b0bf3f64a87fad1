"""The row CLAT: an image-only student of a masked multimodal teacher and of itself.

`build_teacher` gives the method of the first stage (`clat_multimodal`) and `build` that
of the second (`clat_image_student`), which is tested. Variables of the first stage are
`frozen["teacher"]` of the second.
"""

from typing import Any

from flax import linen as nn

from fof_jax.methods.distill.clat_image_student import CLAT
from fof_jax.methods.distill.clat_multimodal import MultimodalTeacher
from fof_jax.methods.distill.clat_student import Settings


def build_teacher(config: Any, info: Any, *, encoder: nn.Module) -> MultimodalTeacher:
    """The first stage of a configuration.

    Args:
      config: `clat.features`, `clat.dropout`, `clat.superpixels`,
        `clat.masked_superpixels`, `clat.masked_omics`, `clat.l1`, `clat.ema_decay`,
        `clat.mask_from` and `clat.as_published` are read.
      info: `classes` is read.
      encoder: of the image, called as `encoder(image, train=...)`.

    Source: methods/clat_pathgcn.md, "Like for like".
    """
    return MultimodalTeacher(
        encoder=encoder,
        classes=len(info.classes),
        width=config.clat.features,
        dropout=config.clat.dropout,
        superpixel_count=config.clat.superpixels,
        masked_superpixels=config.clat.masked_superpixels,
        masked_omics=config.clat.masked_omics,
        lambda_l1=config.clat.l1,
        ema_decay=config.clat.ema_decay,
        mask_from=config.clat.mask_from,
        as_published=config.clat.as_published,
    )


def build(
    config: Any, info: Any, *, encoder: nn.Module, teacher: MultimodalTeacher
) -> CLAT:
    """The second stage of a configuration, which is the row that is tested.

    Args:
      config: `clat.features`, `clat.embedding`, `clat.positives`, `clat.alpha`,
        `clat.beta`, `clat.temperature`, `clat.bank_momentum`, `clat.query_cap`,
        `clat.threshold`, `clat.ema_decay` and `clat.as_published` are read.
      info: `classes` is read.
      encoder: of the image, called as `encoder(image, train=...)`.
      teacher: of the stage before.

    Source: methods/clat_pathgcn.md, "Like for like".
    """
    settings = Settings(
        alpha=config.clat.alpha,
        beta=config.clat.beta,
        temperature=config.clat.temperature,
        momentum=config.clat.bank_momentum,
        cap=config.clat.query_cap,
        threshold=config.clat.threshold,
    )
    return CLAT(
        encoder=encoder,
        classes=len(info.classes),
        teacher=teacher,
        settings=settings,
        width=config.clat.features,
        embedding=config.clat.embedding,
        positives=config.clat.positives,
        ema_decay=config.clat.ema_decay,
        as_published=config.clat.as_published,
    )
