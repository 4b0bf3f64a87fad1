"""The row CLAT: an image-only student of a masked multimodal teacher and of itself.

The first stage is `clat_multimodal`; `build` gives the method
of the second (`clat_image_student`), which is tested. Variables of the first stage are
`frozen["teacher"]` of the second.
"""

from ml_collections import ConfigDict

from fof_jax.methods import encoder as encoders
from fof_jax.methods.distill import clat_multimodal
from fof_jax.methods.distill.clat_image_student import CLAT
from fof_jax.methods.distill.clat_student import Settings
from fof_jax.types import DatasetInfo


def build(config: ConfigDict, info: DatasetInfo) -> CLAT:
    """The second stage of a configuration, which is the row that is tested.

    Args:
      config: `clat.features`, `clat.embedding`, `clat.positives`, `clat.alpha`,
        `clat.beta`, `clat.temperature`, `clat.bank_momentum`, `clat.query_cap`,
        `clat.threshold`, `clat.ema_decay` and `clat.as_published` are read.
      info: `classes` is read.

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
        encoder=encoders.build_image_encoder(config),
        classes=len(info.classes),
        teacher=clat_multimodal.build(config, info),
        settings=settings,
        width=config.clat.features,
        embedding=config.clat.embedding,
        positives=config.clat.positives,
        ema_decay=config.clat.ema_decay,
        as_published=config.clat.as_published,
    )
