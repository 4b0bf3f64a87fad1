"""Replays recordings of the image encoders, and of their single operations."""

from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import encoder_cases, encoder_replay, encoder_units
from fof_jax.parity.rows.torch_layout import Recording


def kind(recording: Recording) -> str | None:
    """ "units", a family of `encoder_cases`, or None for another format."""
    if "swin_attention/in" in recording and "adaptive_pool/0/in" in recording:
        return "units"
    family = str(recording.get("cfg/family", ""))
    return family if family in encoder_cases.FAMILIES else None


def recognizes(recording: Recording) -> bool:
    """Whether a recording is of an image encoder."""
    return kind(recording) is not None


def replay(recording: Recording) -> list[Row]:
    """Compares every recorded quantity with ours.

    Args:
      recording: arrays by name; every size and constant is read from it.

    Returns:
      one row per quantity.

    Raises:
      ValueError: the recording has another format.

    Source: methods/encoders.md.
    """
    row_kind = kind(recording)
    if row_kind is None:
        raise ValueError(
            "parity: the recording is of no image encoder, expected cfg/family one of "
            f"{', '.join(encoder_cases.FAMILIES)}, or the units. Replay it with "
            "another family."
        )
    if row_kind == "units":
        return encoder_units.replay(recording)
    return encoder_replay.replay(recording)
