"""Applies read options to a store: resizing, stain, crops, float markers, balance."""

import dataclasses

from fof_jax.data import images
from fof_jax.data.stain import STAIN_RULES
from fof_jax.data.store import Store


def apply_read_options(
    store: Store,
    *,
    small: str,
    float_markers: tuple[str, ...],
    stain: str = "none",
    train_view: str = "resize",
    test_view: str = "resize",
    balanced: bool = False,
) -> Store:
    """Returns the store with other read options and a selection of float markers.

    Args:
      store: as built.
      small: `resize`, `pad` or `error`.
      float_markers: names to select, in this order.
      stain: `none` or `macenko`.
      train_view: `resize` or `crop`.
      test_view: `resize` or `crop`.
      balanced: whether training samples the classes equally often.

    Returns:
      A store with the same table hash.

    Raises:
      ValueError: an unknown option.
    """
    options = {
        "stain": (stain, STAIN_RULES),
        "train_view": (train_view, images.VIEW_RULES),
        "test_view": (test_view, images.VIEW_RULES),
    }
    for name, (value, allowed) in options.items():
        if value not in allowed:
            raise ValueError(
                f"data.{name}={value!r}: expected one of {', '.join(allowed)}"
            )
    order = [store.float_markers.index(name) for name in float_markers]
    floats = store.floats[:, order]
    return dataclasses.replace(
        store,
        small=small,
        float_markers=float_markers,
        floats=floats,
        stain=stain,
        train_view=train_view,
        test_view=test_view,
        balanced=balanced,
        original_hash=store.table_hash,
    )
