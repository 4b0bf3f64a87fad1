"""Text tables of the scores of explainers."""

from collections.abc import Sequence

from fof_jax.evaluation.focus_table import ALL, FIGURES, RANDOMIZED_LIMIT, Summary
from fof_jax.evaluation.patient_mean import MeanInterval
from fof_jax.evaluation.tables import align

UNITS = {"randomized": "", "stability": "", "ms": ""}  # the others in percent
_WITH_INTERVAL = ("pointing", "above_blind", "inside")


def format_focus(summaries: Sequence[Summary]) -> str:
    """Formats the scores of explainers: one table for all images and each grade.

    Args:
      summaries: of `focus_table.summarize`.

    Returns:
      Lines of text, without a trailing newline.
    """
    blocks = []
    for grade in dict.fromkeys(one.grade for one in summaries):
        rows = [one for one in summaries if one.grade == grade]
        size = rows[0].figures["pointing"]
        counted = (
            f"{_count(size.images, 'map')} each, {_count(size.patients, 'patient')}"
            if size
            else "no map"
        )
        title = "All images" if grade == ALL else f"Grade {grade}"
        shown = [f for f in FIGURES if any(one.figures[f] is not None for one in rows)]
        lines = [["", *(f"{FIGURES[f][0]}{UNITS.get(f, ' (%)')}" for f in shown)]]
        lines += [
            [one.title, *(focus_cell(f, one.figures[f]) for f in shown)] for one in rows
        ]
        blocks.append("\n".join([f"{title}: {counted}", *align(lines)]))
    all_images = [one for one in summaries if one.grade == ALL]
    if failed := [one.title for one in all_images if one.ignores_model]:
        blocks.append(
            f"Do not depend on the model (randomized above {RANDOMIZED_LIMIT}): "
            + ", ".join(failed)
        )
    if unchecked := [one.title for one in all_images if one.is_unchecked]:
        blocks.append(
            "Not checked for dependence on the model (the map or that of the shuffled "
            "network is constant): " + ", ".join(unchecked)
        )
    return "\n\n".join(blocks)


def focus_cell(
    figure: str, value: MeanInterval | None, *, interval: bool | None = None
) -> str:
    """One mean, of some figures with its 95% interval in brackets.

    Args:
      figure: a key of `focus_table.FIGURES`.
      value: its mean; None where there is none.
      interval: whether to add the interval; None decides by the figure.
    """
    if value is None:
        return "none"
    scale, digits = (1, 2) if figure in UNITS else (100, 1)
    text = f"{scale * value.mean:.{digits}f}"
    if interval is None:
        interval = figure in _WITH_INTERVAL
    if interval and value.low is not None and value.high is not None:
        text += f" [{scale * value.low:.{digits}f}, {scale * value.high:.{digits}f}]"
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
