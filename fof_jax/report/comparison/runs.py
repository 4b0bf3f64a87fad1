"""Compares finished runs that were trained and tested on the same folds."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fof_jax.evaluation import comparison, metrics
from fof_jax.report.run import Run, read_run


def compare(
    workdirs: Sequence[Path], *, unit: metrics.Unit = "region", replicates: int
) -> comparison.Comparison:
    """Compares runs, with differences to the first one.

    Args:
      workdirs: of two runs or more; the seed of training may differ.
      unit: what the metrics count.
      replicates: of the bootstrap.

    Raises:
      ValueError: fewer than two runs, a run without a finished fold, or runs of
        other data or other folds; then with what differs.
    """
    if len(workdirs) < 2:
        raise ValueError(
            f"compare: --runs names {len(workdirs)} run; expected two or more."
        )
    runs = [read_run(workdir) for workdir in workdirs]
    names = _names(workdirs)
    for name, run in zip(names, runs, strict=True):
        if not run.finished:
            raise ValueError(
                f"compare: {name} has no finished fold. Train it first, or leave it "
                "out."
            )
    for name, run in zip(names[1:], runs[1:], strict=True):
        if reason := _difference(runs[0], run):
            raise ValueError(
                f"compare: {names[0]} and {name} cannot be compared: {reason}. Train "
                "them on one store with one split (data.scheme, data.seed), or leave "
                "one out."
            )
    entries = [
        comparison.Entry(
            name=name,
            table="",
            cells={(0, f.number): f.predictions for f in run.finished if f.predictions},
            expected=len(run.folds),
            remark="; ".join(
                f"fold {f.number} {f.state}" for f in run.folds if not f.predictions
            ),
        )
        for name, run in zip(names, runs, strict=True)
    ]
    lines = [f"{runs[0].scheme} split in {len(runs[0].folds)} folds, of one table"]
    for name, run in zip(names, runs, strict=True):
        config = run.config
        lines.append(
            f"{name}: {config['method']}, {config['data']['name']}, encoder "
            f"{config['encoder']}, {config['epochs']} epochs, batch "
            f"{config['batch_size']}, seed {config['seed']}{_selection(config)}"
        )
    return comparison.compare(
        entries,
        references=names[:1],
        unit=unit,
        replicates=replicates,
        conditions=lines,
        paper=False,
    )


def _selection(config: Mapping[str, Any]) -> str:
    """How the epoch of a run was selected; "" without validation."""
    fraction = config.get("validation", 0.0)
    if not fraction:
        return ""
    metric = config.get("validation_metric", "loss")
    return f", best epoch by {metric} on validation={fraction:g}"


def _names(workdirs: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths where those are not unique."""
    short = [workdir.resolve().name for workdir in workdirs]
    names = short if len(set(short)) == len(short) else [str(w) for w in workdirs]
    if len(set(names)) < len(names):
        raise ValueError("compare: --runs names one run twice. Pass each once.")
    return names


def _difference(one: Run, other: Run) -> str:
    """Why two runs cannot be compared; "" if they can."""
    if one.table_hash != other.table_hash:
        return (
            f"their tables differ (hash {one.table_hash[:12]} and "
            f"{other.table_hash[:12]})"
        )
    hashes = one.data_hash, other.data_hash
    if None not in hashes and hashes[0] != hashes[1]:
        return f"their images differ (hash {hashes[0]} and {hashes[1]})"
    if one.classes != other.classes:
        return f"their classes differ ({one.classes} and {other.classes})"
    held_out = [run.config.get("validation", 0.0) for run in (one, other)]
    if held_out[0] != held_out[1]:
        return (
            f"their training patients differ (validation={held_out[0]:g} and "
            f"{held_out[1]:g} of each fold's are kept out of training), which one "
            "--config.validation avoids"
        )
    if one.splits is None or other.splits is None:
        return "splits.json is missing in one of them"
    folds = [run.splits["folds"] for run in (one, other) if run.splits]
    if len(folds[0]) != len(folds[1]):
        return f"they have {len(folds[0])} and {len(folds[1])} folds"
    for (a, b), side in itertools.product(zip(*folds, strict=True), ("train", "test")):
        if sorted(a[side]["images"]) != sorted(b[side]["images"]):
            return f"the {side} regions of fold {a['fold']} differ"
    return ""
