"""Checks the names of classes and markers in a config before anything is built."""

import unicodedata
from typing import Any

from ml_collections import ConfigDict

FIELDS = ("classes", "biomarkers", "float_markers", "omics")

_RESERVED = ("image", "patient", "grade", "fold", "mask")  # columns of other meanings


def normalize(data: ConfigDict) -> None:
    """Makes names strings, in place, and checks them.

    `--config.data.classes=2,3,4` gives numbers, `II,III` one name: the first are the
    labels "2", "3" and "4" of a table, the second is refused.

    Args:
      data: section `data` of a config; a section without these fields stays as it is.

    Raises:
      ValueError: fewer than two classes, a name that is empty or not printable, or one
        that occurs twice, also in another case; a marker that is in both lists or is
        a column of another meaning.
    """
    for field in FIELDS:
        if field not in data:
            continue
        names = tuple(_name(field, name) for name in data[field])
        _check(field, names)
        data[field] = type(data[field])(names)  # a config may hold a list
    markers = [*data.get("biomarkers", ()), *data.get("float_markers", ())]
    # A marker in both lists would count twice in Eq. (5).
    if both := sorted({name for name in markers if markers.count(name) > 1}):
        raise ValueError(
            f"data.biomarkers and data.float_markers both hold {', '.join(both)}; "
            "expected each marker once. Remove it from one of them."
        )
    if taken := sorted({*markers, *data.get("omics", ())} & set(_RESERVED)):
        raise ValueError(
            f"data.biomarkers, float_markers or omics hold {', '.join(taken)}, which "
            f"is not a marker; expected columns other than {', '.join(_RESERVED)}."
        )
    if "classes" in data and len(data.classes) < 2:
        raise ValueError(
            f"data.classes is {tuple(data.classes)}; expected two or more classes. "
            f"Pass {flag('classes', ('II', 'III', 'IV'))}."
        )


def flag(field: str, names: tuple[str, ...]) -> str:
    """The flag that sets a field of names, as to be pasted into a shell."""
    listed = ",".join(repr(name) for name in names) + "," * (len(names) == 1)
    quoted = f"({listed})".replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'--config.data.{field}="{quoted}"'


def _name(field: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(
            f"data.{field} holds {value!r}; expected names. Pass "
            f"{flag(field, ('a', 'b'))}."
        )
    return str(value)


def _check(field: str, names: tuple[str, ...]) -> None:
    if len(names) == 1 and "," in names[0]:
        split = tuple(part.strip(" '\"()") for part in names[0].split(","))
        raise ValueError(
            f"data.{field} is one name, {names[0]!r}; expected several. Quote each: "
            f"{flag(field, split)}."
        )
    spelling_of: dict[str, str] = {}
    for name in names:
        if not name or name != name.strip() or not name.isprintable():
            raise ValueError(
                f"data.{field} holds {name!r}; expected a name of printable characters "
                "without blanks around it. Rename it in the config and the table."
            )
        key = unicodedata.normalize("NFKC", name).casefold()
        if key in spelling_of:
            raise ValueError(
                f"data.{field} holds {spelling_of[key]!r} and {name!r}; expected each "
                "name once, also apart from upper and lower case. Remove or rename one."
            )
        spelling_of[key] = name
