"""Words that a table has in the place of integers: Yes, No, wildtype, n.d."""

from collections.abc import Mapping, Sequence

from fof_jax.tables.csv_records import unknown

# Compared without case and with single blanks. "-" and "+" have no usual meaning.
_NEGATIVE = (
    "no", "n", "false", "neg", "neg.", "negative", "absent", "wt", "wildtype",
    "wild type", "wild-type", "unmethylated", "intact", "retained",
)  # fmt: skip
_POSITIVE = (
    "yes", "y", "true", "pos", "pos.", "positive", "present", "mut", "mut.", "mutant",
    "mutated", "methylated", "codeleted", "codel", "co-deleted", "lost",
)  # fmt: skip
_UNKNOWN = (
    "unknown", "unk", "unk.", "?", "n.d.", "n.d", "nd", "n.a.", "n.a", "#n/a", "none",
    "not done", "not determined", "not tested", "not available", "not known",
    "missing", "pending",
)  # fmt: skip
USUAL: dict[str, str] = (
    dict.fromkeys(_NEGATIVE, "0")
    | dict.fromkeys(_POSITIVE, "1")
    | dict.fromkeys(_UNKNOWN, "")
)


def parse(words: Sequence[str]) -> dict[str, str]:
    """The field `data.words` as a mapping.

    Args:
      words: "WORD=INTEGER" each, or "WORD=" for unknown.

    Returns:
      Folded word (`fold`) -> integer as text, or "".

    Raises:
      ValueError: an entry of another form, or a word with two meanings.
    """
    meaning: dict[str, str] = {}
    for entry in words:
        word, equals, value = str(entry).rpartition("=")
        known = value.strip().removeprefix("-").isdecimal()
        if not equals or not word.strip() or (value.strip() and not known):
            raise ValueError(
                f"data.words holds {entry!r}; expected WORD=INTEGER, or WORD= for "
                "unknown. Pass --config.data.words=\"('lost=1','retained=0','?=')\"."
            )
        value = value.strip()
        if meaning.setdefault(fold(word), value) != value:
            raise ValueError(
                f"data.words gives {word!r} two meanings; expected one, also apart "
                "from upper and lower case. Remove one of them."
            )
    return meaning


def fold(cell: str) -> str:
    """A cell as words are compared: without case, with single blanks."""
    return " ".join(cell.split()).casefold()


def replaced(cell: str, meaning: Mapping[str, str]) -> str:
    """A cell's integer where it is a word, "" where that means unknown, or itself."""
    return meaning.get(fold(cell), cell)


def is_unknown(cell: str, meaning: Mapping[str, str]) -> bool:
    """Whether a cell is empty, NA or a word for unknown."""
    return unknown(cell) or meaning.get(fold(cell)) == ""
