"""The model card: what a model is, of which data, how good, and what it is not for."""

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fof_jax.evaluation import tables
from fof_jax.evaluation.tables import percent
from fof_jax.inference import exported, load
from fof_jax.inference.model import Model
from fof_jax.inference.outputs import USE
from fof_jax.training import weights, workdir

Lines = Iterator[str]


def of_model(model: Model) -> str:
    """The card of any loaded model: written with an exported file, or `of_run`."""
    return model.text if isinstance(model, exported.Exported) else of_run(model)


def of_run(model: Model) -> str:
    """The card of a model that came from a run's folder, as Markdown.

    What the folder does not say is said to be unknown: a fold that travelled alone has
    neither the figures nor the versions.
    """
    folds = [_fold(Path(name)) for name in model.folds]
    run = next((p for p in _above(folds[0]) if (p / "config.json").exists()), None)
    made = _json(run, "config.json").get("made_with", {})
    results, splits = _json(run, "results.json"), _json(run, "splits.json")
    lines = [f"# {model.config.method}, {model.config.encoder}", "", f"**{USE}**"]
    lines += _section("Model", _model(model, folds))
    lines += _section("Data", _data(model, splits))
    lines += _section("Figures", _figures(results, model, folds))
    lines += _section("Initial weights", _weights(model))
    lines += _section("Made with", _made_with(made))
    return "\n".join(lines) + "\n"


def of_folder(folder: Path) -> str:
    """The card of whatever `weights.read` takes.

    Of an imported folder, which has no run, it is what the import wrote down; a fold
    that came without any description has none to give.
    """
    about = _json(folder, weights.ABOUT)
    described = (workdir.MODEL_FILE, "config.json")
    if not about and any((p / n).exists() for p in _above(folder) for n in described):
        return of_model(load.load(folder))
    lines = [f"# {about.get('method', folder.name)}", "", f"**{USE}**"]
    lines += _section("Imported from" if about else "Weights", _imported(about))
    lines += _section("Data and figures", iter(["Unknown: no run is beside them."]))
    lines += _section("Made with", _made_with({}))
    return "\n".join(lines) + "\n"


def _imported(about: dict[str, Any]) -> Lines:
    for name, value in about.items():
        if isinstance(value, str):
            yield f"- {name}: {value}"
    if not any(name in about for name in ("licence", "license")):
        yield "- licence: unknown; whoever published these weights says it"


def _section(title: str, lines: Lines) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _model(model: Model, folds: list[Path]) -> Lines:
    config = model.config
    yield f"- Method: {config.method} (Focus on Focus, IEEE BIBM 2024)"
    yield f"- Input: RGB, {model.image_size} x {model.image_size} pixels"
    yield f"- Output: probabilities of {', '.join(model.classes)}"
    names = ", ".join(fold.name for fold in folds)
    yield f"- Folds: {len(folds)} ({names})" + (
        ", probabilities averaged" if len(folds) > 1 else ""
    )
    yield f"- Training: {config.epochs} epochs, batch {config.batch_size}"


def _data(model: Model, splits: dict[str, Any]) -> Lines:
    options = model.config.data
    yield f"- Data: {options.name}"
    if options.name == "phantom":
        yield "- Drawn by a program: figures on it say nothing about patients."
    scheme = tables.SPLIT_DESCRIPTIONS.get(options.scheme, options.scheme)
    yield f"- Split unit: {scheme}"
    for number, fold in enumerate(splits.get("folds", [])):
        parts = [
            f"{side} {fold[side]['regions']} regions of {fold[side]['patients']} "
            "patients"
            for side in ("train", "test")
        ]
        yield f"- Fold {number}: {', '.join(parts)}"
    if not splits:
        yield "- Folds: unknown, splits.json is not beside the weights"
    if model.biomarkers:
        yield f"- Biomarkers, in training alone: {', '.join(model.biomarkers)}"
    if model.sides:
        least, most = model.sides
        yield f"- Sides of the images: {least} to {most} pixels"


def _figures(results: dict[str, Any], model: Model, folds: list[Path]) -> Lines:
    if not results:
        yield "Unknown: results.json is not beside the weights."
        return
    split = tables.describe_split(model.config.data.scheme)
    yield f"Cross-validation, {results['finished']} finished, each image tested by"
    yield "the fold that did not see it; mean ± standard deviation over folds in"
    yield f"percent. {split[0].upper() + split[1:]}."
    yield ""
    yield "| unit | n | average | AUC | AP | accuracy | kappa |"
    yield "|---|---|---|---|---|---|---|"
    for unit, figures in results["units"].items():
        if figures is None:
            continue
        for average in ("micro", "macro"):
            mean, std = figures[average]["mean"], figures[average]["std"]
            cells = [percent(mean[n], std[n]) for n in tables.COLUMNS]
            yield f"| {unit} | {figures['n']} | {average} | {' | '.join(cells)} |"
    yield ""
    if len(folds) > 1:
        yield "The ensemble itself was not tested: every image was trained on by some"
        yield "of its folds. Its own figures want data from elsewhere."
    else:
        yield f"Over all folds of the run; this model is {folds[0].name} alone."


def _weights(model: Model) -> Lines:
    start = model.config.init.checkpoint
    if not start:
        yield "- Drawn at random."
        yield "- Licence of the trained weights: the licence of the data decides."
        return
    about = _json(Path(start), weights.ABOUT)
    yield from _imported({"file": Path(start).name} | about)


def _made_with(made: dict[str, Any]) -> Lines:
    yield f"- fof-jax {importlib.metadata.version('fof-jax')} wrote this card"
    if not made:
        yield "- Versions of training: unknown, config.json is not beside the weights"
        return
    dirty = " with uncommitted changes" if made.get("uncommitted_changes") else ""
    yield f"- Commit of training: {made.get('commit') or 'unknown'}{dirty}"
    versions = {"python": made.get("python", "?"), **made.get("packages", {})}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield f"- Versions of training: {listed}"
    yield f"- Device: {made.get('device', 'unknown')} ({made.get('platform', '?')})"


def _fold(place: Path) -> Path:
    """The fold that a place is, or is a step of."""
    known = (p for p in (place, *place.parents[:2]) if p.name.startswith("fold_"))
    return next(known, place)


def _above(place: Path) -> list[Path]:
    """A fold, a step of it, and the folders around them."""
    return [place, *place.resolve().parents[:3]]


def _json(folder: Path | None, name: str) -> dict[str, Any]:
    if folder is None or not (folder / name).is_file():
        return {}
    return json.loads((folder / name).read_text(encoding="utf-8"))
