"""A store as a configuration asks for it: rules of reading, float markers, balance."""

import dataclasses

from fof_jax.data import images
from fof_jax.data.stain import STAIN_RULES
from fof_jax.data.store import Store


def as_asked(
    store: Store,
    *,
    small: str,
    float_markers: tuple[str, ...],
    stain: str = "none",
    train_view: str = "resize",
    test_view: str = "resize",
    balanced: bool = False,
) -> Store:
    """The same store, read by other rules, with some of its float markers.

    Args:
      store: what was built.
      small: `resize`, `pad` or `error`.
      float_markers: names that the store has, in the order that is wanted.
      stain: `none` or `macenko`.
      train_view: `resize` or `crop`.
      test_view: `resize` or `crop`.
      balanced: whether training draws the classes equally often.

    Returns:
      A store with the same table hash: it is still that table.

    Raises:
      ValueError: a rule that does not exist.
    """
    rules = {
        "stain": (stain, STAIN_RULES),
        "train_view": (train_view, images.VIEW_RULES),
        "test_view": (test_view, images.VIEW_RULES),
    }
    for name, (value, known) in rules.items():
        if value not in known:
            raise ValueError(
                f"data.{name}={value!r}: expected one of {', '.join(known)}"
            )
    order = [store.float_markers.index(name) for name in float_markers]
    floats = store.floats[:, order]
    asked = dataclasses.replace(
        store,
        small=small,
        float_markers=float_markers,
        floats=floats,
        stain=stain,
        train_view=train_view,
        test_view=test_view,
        balanced=balanced,
    )
    asked.__dict__["table_hash"] = store.table_hash  # fills the cached property
    return asked
