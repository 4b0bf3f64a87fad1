"""Pictures of maps A during training, for trackers."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fof_jax.data import loader
from fof_jax.data.augment import pipeline
from fof_jax.data.bags.cache import BagCache
from fof_jax.methods.base import Explainer
from fof_jax.training import device_cache, localize
from fof_jax.training.fold import Fold
from fof_jax.types import Variables

_SIDE = 256  # of an image in a picture, in pixels


def draw(fold: Fold, variables: Variables) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """Images and their A for the true grade, side by side, A in gray.

    They are `config.log_pictures` images, evenly spaced among the validation rows, or
    the training rows of a run without; never test rows.

    Returns:
      Pictures by a name of the patient's grade and the image; {} for a method without
      such a map.
    """
    count = fold.config.get("log_pictures", 0)
    method, reader = fold.setup.method, fold.cache
    if not count or not isinstance(method, Explainer) or isinstance(reader, BagCache):
        return {}
    reader = device_cache.on_host(reader)
    rows = fold.rows.train if fold.rows.validation is None else fold.rows.validation
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))]
    data, size = reader.store, fold.config.data.image_size
    variables = jax.device_get(variables)
    pictures = {}
    for batch in loader.eval_batches(
        data,
        rows,
        batch_size=fold.config.eval_batch_size,
        image_size=size,
        cache=reader,
    ):
        image = pipeline.normalize(
            jnp.asarray(batch.image), color=fold.config.data.color
        )
        target = jnp.asarray(batch.grade)
        A = np.asarray(localize.activation_map(method, variables, image, target))
        for at in np.flatnonzero(batch.valid):
            i = int(batch.index[at])
            gray = np.round(255 * A[at].astype(np.float32)).astype(np.uint8)
            pair = [np.asarray(batch.image[at]), np.repeat(gray[..., None], 3, axis=2)]
            name = f"map/{data.classes[int(data.grades[i])]}/{data.images[i]}"
            pictures[name] = np.concatenate([_reduced(one) for one in pair], axis=1)
    return pictures


def _reduced(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    return np.asarray(picture)
