"""Replays recordings of the distillation rows and of DGKD, by their format."""

from collections.abc import Callable

from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import distillation_banks as banks
from fof_jax.parity.rows import distillation_students as students
from fof_jax.parity.rows import distillation_teacher as teacher
from fof_jax.parity.rows import distillation_units as units
from fof_jax.parity.rows.distillation_tolerances import TOLERANCES as TOLERANCES
from fof_jax.parity.rows.torch_layout import Recording


def _units(recording: Recording) -> list[Row]:
    return units.replay(recording) + banks.replay(recording)


REPLAYS: dict[str, Callable[[Recording], list[Row]]] = {
    "units": _units,
    "rows": students.rows_of,
    "sckd sample": students.sckd_sample,
    "dgkd teacher": teacher.replay,
    "dgkd student": students.dgkd_student,
}


def kind(recording: Recording) -> str | None:
    """The format of a recording, a key of `REPLAYS`; None for another family's."""
    keys = set(recording)
    if any(key.startswith("rules/") for key in keys) and "kinds/0" in keys:
        return "units"
    if "init/student/fc_new2.bias" in keys and "init/teacher/classifier.0.bias" in keys:
        return (
            "rows"
            if any(key.startswith("kl/cfg/") for key in keys)
            else ("dgkd student")
        )
    if "init/model/classifier.0.bias" in keys and "init/ema/classifier.0.bias" in keys:
        return "dgkd teacher"
    if "step0/mask" in keys and "step0/loss/kl_per_sample" in keys:
        return "sckd sample"
    return None


def recognizes(recording: Recording) -> bool:
    """Whether a recording is of a distillation loss or row."""
    return kind(recording) is not None


def replay(recording: Recording) -> list[Row]:
    """Compares every recorded quantity with ours.

    Args:
      recording: arrays by name; every size and constant is read from it.

    Returns:
      one row for each quantity of each case.

    Raises:
      ValueError: the recording has another format.

    Source: methods/distillation.md.
    """
    row_kind = kind(recording)
    if row_kind is None:
        raise ValueError(
            "parity: the recording is of no distillation format, expected one of "
            f"{', '.join(REPLAYS)}. Replay it with another family."
        )
    return REPLAYS[row_kind](recording)
