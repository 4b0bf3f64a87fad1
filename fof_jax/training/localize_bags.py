"""Localization metrics of one fold of bags: maps against the deciding patches."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.data import loader
from fof_jax.data.bags.cache import BagCache
from fof_jax.evaluation import bag_scores, localization
from fof_jax.methods.base import standardize
from fof_jax.types import Variables


def measure(
    method: Any,
    variables: Variables,
    reader: BagCache,
    rows: Sequence[int] | np.ndarray,
    *,
    fold: int,
) -> list[localization.Row]:
    """Localization metrics of the bags of `rows` whose file says what decides.

    Args:
      method, variables: the trained network; the method is a `BagExplainer`.
      reader: bags and their store.
      rows: positions in the store.
      fold: goes into the rows.

    Returns:
      A row a bag, as `localize.measure`; deletion and insertion are None.
    """
    data = reader.store
    index = reader.index
    read = ((int(i), index.read_mask(int(i))) for i in rows if index.has_mask[i])
    masks = {i: mask for i, mask in read if mask is not None and mask.any()}
    if not masks:
        return []
    variables = jax.device_get(variables)
    bag_map = jax.jit(method.bag_map)
    results: list[localization.Row] = []
    for batch in loader.eval_batches(
        data, list(masks), batch_size=1, image_size=1, cache=reader
    ):
        i = int(batch.index[0])
        count = len(masks[i])
        batch = standardize(batch, variables.frozen)
        A = bag_map(variables, batch.bag, jnp.asarray(batch.grade))
        keep = None
        if hasattr(method, "patch_mask"):
            keep = np.asarray(method.patch_mask(A[..., None]))[0, :count, 0]
        figures = bag_scores.score(np.asarray(A)[0, :count], masks[i], keep)
        row = {"image": data.images[i], "patient": data.patients[i], "fold": fold}
        row["grade"] = data.classes[int(data.grades[i])]
        values = (figures.get(name, np.nan) for name in localization.METRICS)
        known = (None if np.isnan(v) else v for v in values)
        results.append(row | dict(zip(localization.METRICS, known, strict=True)))
    return results
