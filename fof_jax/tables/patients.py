"""Who is one patient: the rule by which images are grouped in splits and metrics.

Two spellings of one patient on both sides of a split are a leak, counted as 0.0%. They
are reported, not merged: whether P1 and p1 are one patient is for the user to say.
"""

import re
import unicodedata
from collections.abc import Iterable

# TCGA-XX-YYYY names the case; what follows names a sample, a slide or a region of it.
_TCGA_CASE = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})([-._ ].*)?", re.IGNORECASE)


def patient_key(patient: str) -> str:
    """What two spellings of one patient have in common.

    Unicode forms, case, and the number and kind of blanks do not distinguish patients;
    of a TCGA barcode only the case does (the first 12 characters).
    """
    text = unicodedata.normalize("NFKC", patient).casefold()
    visible = (c for c in text if unicodedata.category(c) != "Cf")
    text = " ".join("".join(visible).split())
    case = _TCGA_CASE.fullmatch(text)
    return case[1] if case else text


def spellings(patients: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different IDs that are one patient, in order of appearance."""
    groups: dict[str, dict[str, None]] = {}
    for patient in patients:
        groups.setdefault(patient_key(patient), {})[patient] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]


def describe(group: tuple[str, ...]) -> str:
    """A group of `spellings` for a message; differences that cannot be seen escaped."""
    shown = [ascii(name)[1:-1] if not name.isascii() else name for name in group]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return " and ".join(shown[:3]) + more
