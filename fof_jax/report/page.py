"""The page: which sections there are, in which order, written whole or not at all."""

import dataclasses
import importlib.metadata
import importlib.resources
import os
from collections.abc import Callable
from pathlib import Path

import jinja2
import numpy as np

from fof_jax import intervals
from fof_jax.report import curves, tables, training
from fof_jax.report.figures import Drawn
from fof_jax.report.run import Run
from fof_jax.report.tables import Table

NOTICE = "Research use, not for diagnosis."


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      anchor: its id.
      title: its heading.
      text: paragraphs before the rest; also why something is not there.
      tables, figures: shown in this order.
      verbatim: text that keeps its lines.
      folded: shown when its heading is opened.
    """

    anchor: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Drawn, ...] = ()
    verbatim: str = ""
    folded: bool = False


def sections(
    run: Run,
    versus: Run | None,
    folder: Path,
    *,
    replicates: int = intervals.REPLICATES,
    say: Callable[[str], None],
) -> list[Section]:
    """What files alone can tell.

    Args:
      run: to report on.
      versus: a second run to stand beside it, or None.
      folder: of the figures' files.
      replicates: draws of an interval.
      say: prints a line.
    """
    say("tables and intervals")
    parts = [_results(run, versus, replicates), _folds(run)]
    say("curves")
    parts += [*_of_predictions(run, folder), _training(run, folder)]
    return parts


def about(run: Run) -> list[Section]:
    """Data, configuration, versions, and the model card if there is one."""
    counted = tables.counts(run)
    parts = [
        Section(
            "data",
            "Data",
            () if counted else ("splits.json is missing: no counts.",),
            (counted,) if counted else (),
        ),
        Section("origin", "Versions", tables=(tables.origin(run),)),
        Section(
            "configuration",
            "Configuration",
            tables=(tables.configuration(run),),
            folded=True,
        ),
    ]
    if run.model_card:
        parts.append(Section("card", "Model card", verbatim=run.model_card))
    return parts


def warnings(run: Run) -> list[str]:
    """What a reader of the figures has to know, the weightiest first."""
    found = []
    unfinished = [fold for fold in run.folds if fold.tested is None]
    if unfinished:
        states = "; ".join(f"fold {fold.number} {fold.state}" for fold in unfinished)
        found.append(
            f"{len(run.finished)} of {len(run.folds)} folds are finished ({states}). "
            "Figures are of the finished ones alone."
        )
    leak = (run.splits or {}).get("leak_share")
    if leak:
        found.append(
            f"{100 * leak:.0f}% of the test regions are of patients that training has "
            "seen: the figures are not those of new patients."
        )
    if run.made_with.get("uncommitted_changes"):
        found.append("The code had uncommitted changes when the run began.")
    if run.results is not None:
        found += run.results["notes"]
    return found


def write(path: Path, run: Run, parts: list[Section]) -> None:
    """Renders the page to a temporary name, then renames it."""
    here = importlib.resources.files("fof_jax.report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string((here / "page.html").read_text("utf-8"))
    text = template.render(
        title=f"{run.workdir.resolve().name}: {run.name}",
        run=run,
        notice=NOTICE,
        version=importlib.metadata.version("fof-jax"),
        warnings=warnings(run),
        sections=parts,
        css=(here / "page.css").read_text("utf-8"),
    )
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _results(run: Run, versus: Run | None, replicates: int) -> Section:
    if run.joined is None:
        return Section("results", "Results", ("No fold is finished: no figures yet.",))
    text = [
        "Mean ± sample standard deviation (ddof 1) over folds, in per cent. The "
        "interval is a bootstrap percentile interval of that mean: patients are drawn "
        f"with replacement within each test fold, {replicates} times. It says how far "
        "the figure depends on who was tested, not on training."
    ]
    rows = [one.paper_row for one in (run, versus) if one is not None and one.paper_row]
    if rows:
        text.append(
            "The paper's figures are those of its Table I: TCGA GBM-LGG, five folds. "
            "The authors' code draws folds over regions, so that patients stand on "
            "both sides, and scores regions, micro-averaged; a run of another split is "
            "to be compared with that in mind."
        )
    found = tables.results(run, versus, replicates=replicates)
    return Section("results", "Results", tuple(text), tuple(found))


def _folds(run: Run) -> Section:
    return Section("folds", "Folds", tables=(tables.per_fold(run),))


def _of_predictions(run: Run, folder: Path) -> list[Section]:
    if run.results is None or run.joined is None:
        return []
    pictures: dict[str, list[Drawn]] = {"classes": [], "calibration": []}
    listed = []
    for unit in ("region", "patient"):
        figures = run.results["units"][unit]
        if figures is None:
            continue
        table = curves.scored(tables.of_unit(run.joined, unit))
        counts = np.array(figures["confusion"], float)
        pictures["classes"] += [
            curves.confusion(counts, run.classes, unit=unit, folder=folder),
            curves.roc(table, run.classes, unit=unit, folder=folder),
            curves.precision_recall(table, run.classes, unit=unit, folder=folder),
        ]
        pictures["calibration"].append(
            curves.reliability(table, unit=unit, folder=folder)
        )
        listed.append(tables.per_class(run, unit))
    return [
        Section(
            "classes",
            "Classes",
            tables=tuple(one for one in listed if one is not None),
            figures=tuple(pictures["classes"]),
        ),
        Section(
            "calibration",
            "Calibration",
            ("Whether a probability means what it says.",),
            figures=tuple(pictures["calibration"]),
        ),
    ]


def _training(run: Run, folder: Path) -> Section:
    drawn = tuple(training.curves(run, folder))
    text = (
        f"A line a fold; where there are more than {training.POINTS} values, each "
        "point is the mean of its neighbours.",
    )
    if not drawn:
        text = ("No fold has a metrics.jsonl yet: no curves.",)
    return Section("training", "Training", text, figures=drawn)
