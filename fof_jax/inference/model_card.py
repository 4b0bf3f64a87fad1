"""Model cards: architecture, data, metrics, provenance and intended use."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import fof_jax
from fof_jax.evaluation import metrics, tables
from fof_jax.evaluation.tables import percent
from fof_jax.inference import exported, load
from fof_jax.inference.outputs import USE
from fof_jax.inference.predictor import Predictor
from fof_jax.training import selection, weights, workdir
from fof_jax.training.run_fields import BEST_FILE

Lines = Iterator[str]


def of_model(model: Predictor) -> str:
    """The card of a loaded model: stored in an exported file, else `of_run`."""
    return model.card if isinstance(model, exported.ExportedModel) else of_run(model)


def of_run(model: Predictor) -> str:
    """The card of a model loaded from a run, as Markdown.

    Missing files are reported as unknown: a fold copied out of its run has neither
    metrics nor versions.
    """
    folds = [_fold(Path(name)) for name in model.fold_names]
    config_file = load.find_upward(folds[0], "config.json")
    run = config_file.parent if config_file else None
    made_with = _json(run, "config.json").get("made_with", {})
    results, splits = _json(run, "results.json"), _json(run, "splits.json")
    lines = [f"# {model.config.method}, {model.config.encoder}", "", f"**{USE}**"]
    lines += _section("Model", _model(model, folds))
    lines += _section("Data", _data(model, splits))
    lines += _section("Metrics", _metrics(results, model, folds))
    lines += _section("Initial weights", _weights(model))
    lines += _section("Made with", _versions(made_with))
    return "\n".join(lines) + "\n"


def of_folder(folder: Path) -> str:
    """The card of any folder that `weights.read` accepts.

    For imported weights, which have no run, it lists what the import recorded.
    """
    about = _json(folder, weights.ABOUT)
    if not about and load.find_upward(folder, workdir.MODEL_FILE, "config.json"):
        return of_run(load.load_trained(folder))
    lines = [f"# {about.get('method', folder.name)}", "", f"**{USE}**"]
    lines += _section("Imported from" if about else "Weights", _imported(about))
    lines += _section("Data and metrics", iter(["Unknown: there is no run."]))
    lines += _section("Made with", _versions({}))
    return "\n".join(lines) + "\n"


def _imported(about: dict[str, Any]) -> Lines:
    for name, value in about.items():
        if isinstance(value, str):
            yield f"- {name}: {value}"
    if not any(name in about for name in ("licence", "license")):
        yield "- licence: unknown; see the publisher of these weights"


def _section(title: str, lines: Lines) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _model(model: Predictor, folds: list[Path]) -> Lines:
    config = model.config
    yield f"- Method: {config.method} (Focus on Focus, IEEE BIBM 2024)"
    yield f"- Input: {input_of(config.data)}"
    yield f"- Output: probabilities of {', '.join(model.classes)}"
    names = ", ".join(fold.name for fold in folds)
    yield f"- Folds: {len(folds)} ({names})" + (
        ", probabilities averaged" if len(folds) > 1 else ""
    )
    yield f"- Training: {config.epochs} epochs, batch {config.batch_size}"
    for name in model.fold_names:  # a step that was passed is not the selected one
        if best := _json(Path(name), BEST_FILE):
            yield f"- {Path(name).name}: {selection.describe(best)}"


def input_of(options: ConfigDict) -> str:
    """What the network reads, in the order of preprocessing.

    Args:
      options: section `data` of the run's config.
    """
    how = "resized (bicubic)" if options.test_view == "resize" else "cropped"
    parts = [f"RGB, {how} to {options.image_size} x {options.image_size} pixels"]
    if options.stain == "macenko":
        parts.insert(
            0,
            "**Macenko-normalized H&E** (ISBI 2009, its reference stains, on the image "
            "before resizing: `fof_jax/data/stain.py`, or `stain.stablehlo` of an "
            "exported file; the probabilities are wrong without it)",
        )
    if options.color:
        parts.append("normalized with the channel mean and std of ImageNet")
    else:
        parts.append("grayscale, standardized per image")
    return "; ".join(parts)


def _data(model: Predictor, splits: dict[str, Any]) -> Lines:
    options = model.config.data
    yield f"- Data: {options.name}"
    if options.name == "phantom":
        yield "- Synthetic: metrics on it say nothing about patients."
    scheme = tables.SPLIT_DESCRIPTIONS.get(options.scheme, options.scheme)
    yield f"- Split unit: {scheme}"
    for number, fold in enumerate(splits.get("folds", [])):
        parts = [
            f"{side} {fold[side]['regions']} regions of {fold[side]['patients']} "
            "patients"
            for side in ("train", "validation", "test")
            if side in fold
        ]
        yield f"- Fold {number}: {', '.join(parts)}"
    if not splits:
        yield "- Folds: unknown, splits.json is missing"
    if model.biomarkers:
        yield f"- Biomarkers, training only: {', '.join(model.biomarkers)}"
    if model.sides:
        shortest, longest = model.sides
        yield f"- Sides of the images: {shortest} to {longest} pixels"


def _metrics(results: dict[str, Any], model: Predictor, folds: list[Path]) -> Lines:
    if not results:
        yield "Unknown: results.json is missing."
        return
    split = tables.describe_split(model.config.data.scheme)
    yield f"Cross-validation, {results['finished']} finished, each image predicted by"
    yield "the fold that was not trained on it; mean ± standard deviation over folds in"
    yield f"percent. {split[0].upper() + split[1:]}."
    yield ""
    yield "| unit | n | average | AUC | AP | accuracy | kappa |"
    yield "|---|---|---|---|---|---|---|"
    for unit, of_unit in metrics.units_with_results(results):
        for average in metrics.AVERAGES:
            mean, std = of_unit[average]["mean"], of_unit[average]["std"]
            cells = [percent(mean[n], std[n]) for n in tables.COLUMNS]
            yield f"| {unit} | {of_unit['n']} | {average} | {' | '.join(cells)} |"
    yield ""
    if len(folds) > 1:
        yield "The ensemble itself was not evaluated: every image was in the training"
        yield "set of some fold. Its metrics require an external cohort."
    else:
        yield f"Over all folds of the run; this model is {folds[0].name} only."


def _weights(model: Predictor) -> Lines:
    checkpoint = model.config.init.checkpoint
    if not checkpoint:
        yield "- Random initialization."
        yield "- Licence of the trained weights: determined by that of the data."
        return
    about = _json(Path(checkpoint), weights.ABOUT)
    yield from _imported({"file": Path(checkpoint).name} | about)


def _versions(made_with: dict[str, Any]) -> Lines:
    yield f"- Card written by fof-jax {fof_jax.__version__}"
    if not made_with:
        yield "- Versions of training: unknown, config.json is missing"
        return
    dirty = " with uncommitted changes" if made_with.get("uncommitted_changes") else ""
    yield f"- Commit of training: {made_with.get('commit') or 'unknown'}{dirty}"
    versions = {"python": made_with.get("python", "?"), **made_with.get("packages", {})}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"- Versions of training: {listed}"
    device, platform = made_with.get("device"), made_with.get("platform", "?")
    yield f"- Device: {device or 'unknown'} ({platform})"


def _fold(place: Path) -> Path:
    """The folder fold_K of a checkpoint step; otherwise the given folder."""
    parents = (p for p in (place, *place.parents[:2]) if p.name.startswith("fold_"))
    return next(parents, place)


def _json(folder: Path | None, name: str) -> dict[str, Any]:
    if folder is None or not (folder / name).is_file():
        return {}
    return json.loads((folder / name).read_text(encoding="utf-8"))
