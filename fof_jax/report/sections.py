"""The sections of the page: which there are, and what each says.

What cannot be shown is left out with a sentence that says why.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fof_jax.data.store import Store
from fof_jax.inference import load, model_card
from fof_jax.report import (
    embedding,
    fold_model,
    gallery,
    localization_plots,
    prediction_plots,
    tables,
    training_plots,
)
from fof_jax.report.page import Section
from fof_jax.report.run import Run
from fof_jax.report.style import Drawn

OpenData = Callable[[ConfigDict], Store]


def sections(
    run: Run,
    versus: Run | None,
    *,
    fold: int | None,
    open_data: OpenData,
    replicates: int,
    folder: Path,
    say: Callable[[str], None],
) -> list[Section]:
    """All of them, in order.

    Args:
      run: to report on.
      versus: a second run to stand beside it, or None.
      fold: whose model and regions are pictured; None takes the first finished one.
      open_data: the store that a configuration describes.
      replicates: draws of an interval.
      folder: of the figures' files.
      say: prints a line.
    """
    say("report: tables and intervals")
    parts = [_results(run, versus, replicates), _folds(run)]
    say("report: curves")
    parts += [*_of_predictions(run, folder), _training(run, folder)]
    say("report: features and regions")
    opened = [_opened(one, fold, open_data) for one in (run, versus) if one is not None]
    parts += [_features(opened, run, versus, folder), _regions(opened[0], run, folder)]
    return [*parts, _focus(run, folder), *about(run)]


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
    return [*parts, _card(run)]


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
        table = prediction_plots.scored(tables.of_unit(run.joined, unit))
        counts = np.array(figures["confusion"], float)
        pictures["classes"] += [
            prediction_plots.confusion(counts, run.classes, unit=unit, folder=folder),
            prediction_plots.roc(table, run.classes, unit=unit, folder=folder),
            prediction_plots.precision_recall(
                table, run.classes, unit=unit, folder=folder
            ),
        ]
        pictures["calibration"].append(
            prediction_plots.reliability(table, unit=unit, folder=folder)
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
    drawn = tuple(training_plots.curves(run, folder))
    text = (
        f"One line per fold; with more than {training_plots.POINTS} values, each point "
        "is the mean of its neighbors.",
    )
    if not drawn:
        text = ("No fold has a metrics.jsonl yet: no curves.",)
    return Section("training", "Training", text, figures=drawn)


def _opened(
    run: Run, fold: int | None, open_data: OpenData
) -> fold_model.Tested | ValueError:
    """A fold's model with its regions, or why there is none."""
    try:
        return fold_model.open_fold(run, fold, open_data)
    except ValueError as error:
        return error


def _features(
    opened: list[fold_model.Tested | ValueError],
    run: Run,
    versus: Run | None,
    folder: Path,
) -> Section:
    title = "Features (the paper's Fig. 3)"
    names = ["this run", f"versus: {versus.name}" if versus is not None else ""]
    text, embedded = [], []
    for one, name in zip(opened, names, strict=False):
        try:
            if isinstance(one, ValueError):
                raise one
            embedded.append(embedding.embed(one, name))
        except ValueError as error:
            text.append(f"Left out for {name}: {_sentence(error)}")
    if not embedded:
        return Section("features", title, tuple(text))
    text.append(
        "Features v = g(x) of the test regions of one fold, since every fold has a "
        "model and with it a space of its own. Distances in a t-SNE mean little beyond "
        "who is whose neighbour; the silhouette is of the features themselves."
    )
    if not run.biomarkers:
        text.append("The run has no biomarkers: the class alone.")
    if len(embedded) > 1 and _names(opened[0]) != _names(opened[1]):
        text.append("The two runs test different regions in this fold.")
    return Section(
        "features",
        title,
        tuple(text),
        (embedding.table(embedded),),
        tuple(embedding.figures(embedded, folder)),
        pairs=len(embedded) > 1,
    )


def _names(opened: fold_model.Tested | ValueError) -> list[str]:
    """The regions of an opened fold; none where there is none."""
    if isinstance(opened, ValueError):
        return []
    return [opened.data.images[int(i)] for i in opened.rows]


def _regions(opened: fold_model.Tested | ValueError, run: Run, folder: Path) -> Section:
    title = "Regions (the paper's Fig. 2 and 4)"
    if isinstance(opened, ValueError):
        return Section("regions", title, (f"Left out: {_sentence(opened)}",))
    table = run.folds[opened.fold].tested
    shown = gallery.cases(opened, table) if table is not None else []
    if not shown:
        return Section("regions", title, ("No region has a known class.",))
    gallery.draw(shown, folder)
    right = sum(case.right for case in shown)
    text = (
        f"Test regions of fold {opened.fold}, as the model sees them: of each true "
        f"class the right ({right}) and the wrong ({len(shown) - right}) prediction "
        "that the model is surest of. They are extremes, not a sample. A is the map of "
        "evidence for the named class, Eq. (1), scaled to 0-1 in each region and laid "
        "over it; M, Eq. (2), keeps the patches whose mean of A is above the "
        "threshold, and the others are grey. Where nothing speaks for the class, A is "
        "0 throughout and M keeps nothing.",
    )
    return Section("regions", title, text, cases=tuple(shown))


def _focus(run: Run, folder: Path) -> Section:
    title = "Focus against masks"
    if not run.focus:
        text = (
            "Left out: there are no focus figures. They exist where the data have "
            "masks of the diagnostic structures, as the phantom's do."
        )
        return Section("focus", title, (text,))
    return Section(
        "focus",
        title,
        (localization_plots.MEANING,),
        (localization_plots.table(run.focus),),
        (localization_plots.figure(run.focus, folder),),
    )


def _card(run: Run) -> Section:
    """The file in the workdir, or what an export of the run would say."""
    try:
        with fold_model.of_this_version():
            text = run.model_card or model_card.of_run(load.load(run.workdir))
    except ValueError as error:
        return Section("card", "Model card", (f"Left out: {_sentence(error)}",))
    return Section("card", "Model card", verbatim=text)


def _sentence(error: ValueError) -> str:
    text = str(error).strip()
    return text if text.endswith(".") else f"{text}."
