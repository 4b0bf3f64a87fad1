"""Sections of the page, in order.

Content that is not available is replaced by a sentence with the reason.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from fof_jax.data.store import Store
from fof_jax.evaluation import metrics
from fof_jax.inference import load, model_card
from fof_jax.inference.model import has_map, no_map_reason
from fof_jax.report import (
    bag_gallery,
    embedding,
    focus_page,
    fold_model,
    gallery,
    localization_plots,
    prediction_plots,
    tables,
    training_plots,
)
from fof_jax.report.page import Section
from fof_jax.report.run import Run
from fof_jax.report.style import Plot

OpenData = Callable[[ConfigDict], Store]


def sections(
    run: Run,
    versus: Run | None,
    *,
    fold: int | None,
    open_data: OpenData,
    replicates: int,
    folder: Path,
    log: Callable[[str], None],
) -> list[Section]:
    """Builds all sections; arguments as in `build.report`, `folder` is for plots."""
    log("report: tables and intervals")
    parts = [_results(run, versus, replicates), _folds(run)]
    log("report: curves")
    parts += [*_of_predictions(run, folder), _training(run, folder)]
    log("report: features and regions")
    opened = [_open(one, fold, open_data) for one in (run, versus) if one is not None]
    parts += [_features(opened, run, versus, folder), _regions(opened[0], run, folder)]
    parts += [_focus(run, folder), focus_page.section(run.workdir, folder)]
    return [*parts, *about(run)]


def about(run: Run) -> list[Section]:
    """Data, provenance, configuration and model card."""
    counts = tables.counts(run)
    parts = [
        Section(
            "data",
            "Data",
            () if counts else ("splits.json is missing: no counts.",),
            (counts,) if counts else (),
        ),
        Section("origin", "Versions", tables=(tables.origin(run),)),
        Section(
            "configuration",
            "Configuration",
            tables=(tables.configuration(run),),
            collapsed=True,
        ),
    ]
    return [*parts, _model_card(run)]


def warnings(run: Run) -> list[str]:
    """Caveats on the metrics, most important first."""
    lines = []
    unfinished = [fold for fold in run.folds if fold.predictions is None]
    if unfinished:
        states = "; ".join(f"fold {fold.number} {fold.state}" for fold in unfinished)
        lines.append(
            f"{len(run.finished)} of {len(run.folds)} folds are finished ({states}). "
            "Metrics are of the finished folds only."
        )
    leak = (run.splits or {}).get("leak_share")
    if leak:
        lines.append(
            f"{100 * leak:.0f}% of the test regions are of patients in the training "
            "set: the metrics do not apply to new patients."
        )
    if run.made_with.get("uncommitted_changes"):
        lines.append("The code had uncommitted changes when the run started.")
    if run.results is not None:
        lines += run.results["notes"]
    return lines


def _results(run: Run, versus: Run | None, replicates: int) -> Section:
    if run.predictions is None:
        return Section("results", "Results", ("No fold is finished: no metrics yet.",))
    text = [
        "Mean ± sample standard deviation (ddof 1) over folds, in percent. The "
        "interval is a bootstrap percentile interval of the mean: patients are "
        f"resampled within each test fold, {replicates} times. It covers the variation "
        "of the test patients, not that of training."
    ]
    rows = [one.paper_row for one in (run, versus) if one is not None and one.paper_row]
    if rows:
        text.append(
            "The paper's metrics are those of its Table I: TCGA GBM-LGG, five folds. "
            "The authors' code splits over regions, with patients in both training and "
            "test set, and reports micro-averages over regions; runs with another "
            "split are not directly comparable."
        )
    results = tables.results(run, versus, replicates=replicates)
    return Section("results", "Results", tuple(text), tuple(results))


def _folds(run: Run) -> Section:
    return Section("folds", "Folds", tables=(tables.per_fold(run),))


def _of_predictions(run: Run, folder: Path) -> list[Section]:
    if run.results is None or run.predictions is None:
        return []
    plots: dict[str, list[Plot]] = {"classes": [], "calibration": []}
    per_class = []
    for unit, of_unit in metrics.units_with_results(run.results):
        table = prediction_plots.scored(tables.of_unit(run.predictions, unit))
        counts = np.array(of_unit["confusion"], float)
        plots["classes"] += [
            prediction_plots.confusion(counts, run.classes, unit=unit, folder=folder),
            prediction_plots.roc(table, run.classes, unit=unit, folder=folder),
            prediction_plots.precision_recall(
                table, run.classes, unit=unit, folder=folder
            ),
        ]
        plots["calibration"].append(
            prediction_plots.reliability(table, unit=unit, folder=folder)
        )
        plots["calibration"].append(
            prediction_plots.coverage_risk(table, unit=unit, folder=folder)
        )
        per_class.append(tables.per_class(run, unit))
    return [
        Section(
            "classes",
            "Classes",
            tables=tuple(one for one in per_class if one is not None),
            plots=tuple(plots["classes"]),
        ),
        Section(
            "calibration",
            "Calibration",
            (
                "Agreement of predicted probabilities with observed frequencies, and "
                "the error that is left when the least certain are not answered "
                "(eval --abstain_error).",
            ),
            plots=tuple(plots["calibration"]),
        ),
    ]


def _training(run: Run, folder: Path) -> Section:
    plots = tuple(training_plots.curves(run, folder))
    text: tuple[str, ...] = (
        f"One line per fold; with more than {training_plots.POINTS} values, each point "
        "is the mean of an interval.",
    )
    if run.config.get("validation"):
        metric = run.config["validation_metric"]
        text += (
            f"The model of a fold is that of the epoch with the best validation "
            f"{metric}, on patients of the training fold that are not trained on. The "
            "test fold takes no part in the choice.",
        )
    if not plots:
        text = ("No fold has a metrics.jsonl yet: no curves.",)
    return Section("training", "Training", text, plots=plots)


def _open(
    run: Run, fold: int | None, open_data: OpenData
) -> fold_model.TestedFold | ValueError:
    """The model of a fold with its test regions, or the reason why there is none."""
    try:
        return fold_model.open_fold(run, fold, open_data)
    except ValueError as error:
        return error


def _features(
    opened: list[fold_model.TestedFold | ValueError],
    run: Run,
    versus: Run | None,
    folder: Path,
) -> Section:
    title = "Features (the paper's Fig. 3)"
    names = ["this run", f"versus: {versus.name}" if versus is not None else ""]
    text, embeddings = [], []
    for one, name in zip(opened, names, strict=False):
        try:
            if isinstance(one, ValueError):
                raise one
            embeddings.append(embedding.embed(one, name))
        except ValueError as error:
            text.append(f"Omitted for {name}: {_sentence(error)}")
    if not embeddings:
        return Section("features", title, tuple(text))
    text.append(
        "Features v = g(x) of the test regions of one fold, because each fold's model "
        "has its own feature space. A t-SNE preserves the neighborhood structure, not "
        "distances; the silhouette is computed on the features."
    )
    if not run.biomarkers:
        text.append("The run has no biomarkers: colored by class only.")
    if len(embeddings) > 1 and _names(opened[0]) != _names(opened[1]):
        text.append("The two runs test different regions in this fold.")
    return Section(
        "features",
        title,
        tuple(text),
        (embedding.table(embeddings),),
        tuple(embedding.plots(embeddings, folder)),
        pairs=len(embeddings) > 1,
    )


def _names(opened: fold_model.TestedFold | ValueError) -> list[str]:
    """Names of the regions of an opened fold."""
    if isinstance(opened, ValueError):
        return []
    return [opened.data.images[int(i)] for i in opened.rows]


def _regions(
    opened: fold_model.TestedFold | ValueError, run: Run, folder: Path
) -> Section:
    title = "Regions (the paper's Fig. 2 and 4)"
    if isinstance(opened, ValueError):
        return Section("regions", title, (f"Omitted: {_sentence(opened)}",))
    table = run.folds[opened.fold].predictions
    if opened.data.bags is not None:
        return bag_gallery.section(opened, table, folder)
    if not has_map(opened.model):
        reason = f"no class activation map, {no_map_reason(opened.model)}"
        return Section("regions", title, (f"Omitted: {reason}.",))
    shown = gallery.cases(opened, table) if table is not None else []
    if not shown:
        return Section("regions", title, ("No region has a known class.",))
    gallery.plot(shown, folder)
    correct = sum(case.correct for case in shown)
    text = (
        f"Test regions of fold {opened.fold} after preprocessing: for each true class, "
        f"the most confident correct ({correct}) and incorrect "
        f"({len(shown) - correct}) prediction. They are extremes, not a random sample. "
        "A is the class activation map of the named class, Eq. (1), scaled to 0-1 per "
        "region; M, Eq. (2), keeps the patches whose mean of A is above the threshold, "
        "and the others are gray. Without evidence for a class, A is 0 everywhere and "
        "M keeps no patch.",
    )
    return Section("regions", title, text, cases=tuple(shown))


def _focus(run: Run, folder: Path) -> Section:
    title = "Localization"
    if not run.focus:
        text = (
            "Omitted: there are no localization metrics. They require masks of the "
            "diagnostic structures, which the phantom has."
        )
        return Section("focus", title, (text,))
    return Section(
        "focus",
        title,
        (localization_plots.MEANING,),
        (localization_plots.table(run.focus),),
        (localization_plots.plot(run.focus, folder),),
    )


def _model_card(run: Run) -> Section:
    """model_card.md of the workdir, or the card that an export would write."""
    try:
        with fold_model.reporting_missing_fields():
            text = run.model_card or model_card.of_run(load.load_trained(run.workdir))
    except ValueError as error:
        return Section("card", "Model card", (f"Omitted: {_sentence(error)}",))
    return Section("card", "Model card", verbatim=text)


def _sentence(error: ValueError) -> str:
    text = str(error).strip()
    return text if text.endswith(".") else f"{text}."
