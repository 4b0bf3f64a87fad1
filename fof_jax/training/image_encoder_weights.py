"""Fits given weights of an image encoder other than the ViT to those of a method."""

from collections.abc import Callable
from typing import Any

from fof_jax.types import Params, Variables

# Where a method has its encoder, in parameters and batch statistics.
ENCODERS = ("encoder", "image_encoder")
# Parts behind the published encoders that files of pretrained weights lack, and that
# rows with a projection of their own do without.
HEADS = ("projection", "projection_bn", "head")


def fitted(
    fresh: Variables, given: Variables, *, log: Callable[[str], None]
) -> Variables:
    """Given weights under the names of a method, its heads filled in from `fresh`.

    Args:
      fresh: of the method that is to be trained.
      given: `params` with `encoder`, and `batch_stats` of it where there are any.
      log: prints what is new and what is left out.

    Returns:
      variables for `init_weights.insert_weights`.
    """
    params = _at_encoder(fresh.params, given.params, log)
    statistics = _at_encoder(
        fresh.state.get("batch_stats", {}), given.state.get("batch_stats", {}), None
    )
    state: dict[str, Any] = dict(given.state)
    if statistics:
        # Parts that the given weights lack keep their statistics.
        state["batch_stats"] = {**fresh.state["batch_stats"], **statistics}
    return Variables(params=params, state=state)


def _at_encoder(
    fresh: Params, given: Params, log: Callable[[str], None] | None
) -> Params:
    """The given tree with its encoder where `fresh` has one, completed by heads."""
    ours = next((name for name in ENCODERS if name in fresh), None)
    theirs = next((name for name in ENCODERS if name in given), None)
    if ours is None or theirs is None:
        return given
    encoder = dict(given[theirs])
    for head in HEADS:
        if head in fresh[ours] and head not in encoder:
            encoder[head] = fresh[ours][head]
            _report(log, f"{ours}.{head} new, drawn at random")
        elif head in encoder and head not in fresh[ours]:
            del encoder[head]
            _report(log, f"encoder {head} left out: this method has none")
    rest = {name: tree for name, tree in given.items() if name != theirs}
    return {**rest, ours: encoder}


def _report(log: Callable[[str], None] | None, text: str) -> None:
    if log is not None:
        log(f"init.checkpoint: {text}")
