"""The scores of `focus`: page, picture, and a section of a run's report."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from fof_jax import files
from fof_jax.evaluation import focus_table
from fof_jax.evaluation.focus_table import ALL, FIGURES, RANDOMIZED_LIMIT, Summary
from fof_jax.evaluation.focus_text import UNITS, focus_cell
from fof_jax.inference.focus_cases import Case
from fof_jax.inference.visualization import masked, overlay
from fof_jax.report import page
from fof_jax.report.gallery import Strip
from fof_jax.report.page import Section
from fof_jax.report.style import (
    MARKERS,
    MUTED,
    SERIES,
    Plot,
    legend_below,
    new_figure,
    save_plot,
)
from fof_jax.report.tables import Table

FOLDER = "focus"  # below a run, where `focus` writes by default
PICTURE = "focus.png"
_PLOTTED = ("pointing", "inside", "deletion_mean", "insertion_mean")
Maps = dict[str, Float[np.ndarray, "S S"]]  # title of the explainer -> map


def meaning() -> tuple[str, ...]:
    """What each figure says, as paragraphs."""
    figures = ". ".join(f"{name}: {text}" for name, text in FIGURES.values())
    return (
        "Maps of the image's own grade, by folds that were not trained on it, and "
        "rules that do not read the model, against masks of the structures. In "
        "brackets: 95% intervals by patient.",
        f"{figures}.",
    )


def table(summaries: Sequence[Summary], grade: str) -> Table:
    """All figures with their intervals, one row per explainer."""
    rows = [one for one in summaries if one.grade == grade]
    shown = [f for f in FIGURES if any(one.figures[f] is not None for one in rows)]
    size = rows[0].figures["pointing"]
    counted = f"{size.images} maps of {size.patients} patients" if size else "no map"
    return Table(
        f"{'All images' if grade == ALL else f'Grade {grade}'}: {counted}.",
        ("", *(f"{FIGURES[f][0]}{UNITS.get(f, ' (%)')}" for f in shown)),
        tuple(
            (
                one.title + (" (blind)" if one.blind else ""),
                *(focus_cell(f, one.figures[f], interval=f != "ms") for f in shown),
            )
            for one in rows
        ),
    )


def grade_tables(summaries: Sequence[Summary]) -> tuple[Table, ...]:
    """The same for each grade; none where all images are of one."""
    grades = dict.fromkeys(one.grade for one in summaries if one.grade != ALL)
    return tuple(table(summaries, grade) for grade in grades)


def plots(summaries: Sequence[Summary], folder: Path) -> tuple[Plot, ...]:
    """One dot plot per figure: each explainer on all images, with its interval."""
    rows = [one for one in summaries if one.grade == ALL]
    saved = []
    for figure_name in _PLOTTED:
        intervals = [(one, one.figures[figure_name]) for one in rows]
        known = [(one, value) for one, value in intervals if value is not None]
        if not known:
            continue
        with new_figure(height=1.2 + 0.3 * len(known)) as (figure, axes):
            for blind, label in ((False, "reads the model"), (True, "blind")):
                at = [k for k, (one, _) in enumerate(known) if one.blind == blind]
                if not at:
                    continue
                values = [known[k][1] for k in at]
                mean = [100 * value.mean for value in values]
                ends = [
                    [
                        100 * (v.mean - v.low) if v.low is not None else 0
                        for v in values
                    ],
                    [
                        100 * (v.high - v.mean) if v.high is not None else 0
                        for v in values
                    ],
                ]
                axes.errorbar(
                    mean,
                    at,
                    xerr=np.maximum(ends, 0),
                    color=SERIES[int(blind)],
                    marker=MARKERS[int(blind)],
                    linestyle="none",
                    capsize=3,
                    label=label,
                )
            if figure_name == "inside" and known[0][0].figures["area"] is not None:
                area = 100 * known[0][0].figures["area"].mean
                axes.axvline(area, color=MUTED, linestyle="--", label="area")
            axes.set_yticks(range(len(known)), [one.title for one, _ in known])
            axes.invert_yaxis()
            axes.set(xlabel="%")
            legend_below(figure, axes, columns=3)
            saved.append(
                save_plot(
                    figure,
                    name=f"focus_{figure_name}",
                    title=FIGURES[figure_name][0],
                    caption=f"All images: {FIGURES[figure_name][1]}; mean and 95% "
                    "interval by patient.",
                    folder=folder,
                )
            )
    return tuple(saved)


def strips(examples: Sequence[tuple[Case, Maps]], classes: Sequence[str]):
    """Images with their structures and the map of every explainer over them."""
    return tuple(
        Strip(
            f"{case.image}, grade {classes[case.grade]}",
            (
                ("image", case.pixels),
                ("structures", masked(case.pixels, case.mask, patch=1)),
                *((title, overlay(case.pixels, A)) for title, A in maps.items()),
            ),
        )
        for case, maps in examples
    )


def picture(path: Path, shown: Sequence[Strip]) -> None:
    """Writes a PNG with one row of panels per example."""
    columns = max(len(strip.panels) for strip in shown)
    figure = Figure(figsize=(1.5 * columns, 1.9 * len(shown)), layout="constrained")
    for axes, strip in zip(
        figure.subplots(len(shown), columns, squeeze=False), shown, strict=True
    ):
        for one in axes:
            one.set_axis_off()
        for one, (label, pixels) in zip(axes, strip.panels, strict=False):
            one.imshow(pixels, interpolation="nearest")
            one.set_title(label.replace(" ", "\n", 1), fontsize=7)
    with matplotlib.rc_context({"text.parse_math": False}):
        files.write_with(path, lambda file: figure.savefig(file, format="png", dpi=110))


def write(
    path: Path,
    summaries: Sequence[Summary],
    *,
    title: str,
    intro: str,
    shown: Sequence[Strip] = (),
    more: Sequence[Section] = (),
) -> None:
    """Writes the page and, below figures/ beside it, its plots.

    Args:
      path: of the page.
      summaries: of `focus_table.summarize`.
      title, intro: heading, and what was measured.
      shown: examples.
      more: sections after the scores.
    """
    parts = [
        Section(
            "scores",
            "Scores",
            meaning(),
            (table(summaries, ALL),),
            plots(summaries, path.parent / "figures"),
        )
    ]
    if tables := grade_tables(summaries):
        parts.append(Section("grades", "By grade", tables=tables))
    if shown:
        text = (
            "One image of each grade, the first of the table. Yellow is the most "
            "evidence; a map is scaled to its own largest value.",
        )
        parts.append(Section("examples", "Examples", text, strips=tuple(shown)))
    page.write(
        path,
        title=title,
        lead=intro,
        warnings=warnings(summaries),
        parts=[*parts, *more],
    )


def warnings(summaries: Sequence[Summary]) -> list[str]:
    """Maps that do not depend on the model, or do not point better than blind rules."""
    rows = [one for one in summaries if one.grade == ALL and not one.blind]
    messages = []
    same = [one.title for one in rows if one.ignores_model]
    if same:
        messages.append(
            f"The map hardly changes when the network's blocks are shuffled "
            f"(correlation above {RANDOMIZED_LIMIT}): {', '.join(same)}."
        )
    unchecked = [one.title for one in rows if one.is_unchecked]
    if unchecked:
        messages.append(
            "Not checked for dependence on the model, because the map or that of the "
            f"shuffled network is constant: {', '.join(unchecked)}."
        )
    below = [
        one.title
        for one in rows
        if (above := one.figures["above_blind"]) is not None
        and (above.low is None or above.low <= 0)
    ]
    if below:
        messages.append(
            "Not shown to point better than the best blind rule (the interval reaches "
            f"0 or below): {', '.join(below)}."
        )
    return messages


def section(workdir: Path, folder: Path) -> Section:
    """The section of a run's report: the scores below WORKDIR/focus, if there are."""
    title = "Explainers and blind rules"
    path = workdir / FOLDER / focus_table.FILE_NAME
    if not path.is_file():
        text = (
            "Omitted: not measured. `python launch.py focus --checkpoint=WORKDIR` "
            "scores the maps of the run against masks, and rules without a model.",
        )
        return Section("explainers", title, text)
    summaries = focus_table.summarize(focus_table.read(path))
    return Section(
        "explainers",
        title,
        (*meaning(), *warnings(summaries)),
        (table(summaries, ALL), *grade_tables(summaries)),
        plots(summaries, folder),
    )
