"""Writes a workdir with random predictions, without training."""

import json
from pathlib import Path

import numpy as np

from fof_jax.cli import config as config_flag
from fof_jax.evaluation import focus_table
from fof_jax.evaluation.predictions import Predictions, write_predictions
from fof_jax.training.build import flatten_fields

ROOT = Path(__file__).parents[2]


def write_run(
    folder: Path,
    *,
    classes=("II", "III", "IV"),
    biomarkers=("idh", "EGFR"),
    folds=3,
    finished=3,
    each=30,
    scheme="patient",
    paper_row=None,
    patients=True,
    history=True,
    steps=40,
    seed=0,
) -> Path:
    """Writes a workdir: predictions better than chance, two regions per patient."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    config = config_flag.load([f"--config={ROOT}/configs/phantom.py"]).to_dict()
    config |= {"encoder": "mu/8"}
    config |= {"folds": folds, "paper_row": paper_row, "epochs": 8, "batch_size": 6}
    config["data"] |= {
        "classes": list(classes),
        "biomarkers": list(biomarkers),
        "scheme": scheme,
        "dir": str(folder / "nothing"),
    }
    document = {
        "config": config,
        "fields": flatten_fields(config) | {"table_hash": "0" * 64},
        "made_with": {
            "packages": {"jax": "0.10.2"},
            "python": "3.11.7",
            "commit": "abc",
            "uncommitted_changes": True,
        },
    }
    (folder / "config.json").write_text(json.dumps(document))
    sides = []
    for k in range(folds):
        test = {
            "regions": each,
            "patients": each // 2,
            "classes": dict.fromkeys(classes, each // len(classes)),
            "images": [f"f{k}-{i}.png" for i in range(each)],
        }
        sides.append({"fold": k, "train": test, "test": test})
    splits = {"scheme": scheme, "seed": 42, "folds": sides}
    splits["leak_share"] = 0.69 if scheme == "roi" else 0.0
    (folder / "splits.json").write_text(json.dumps(splits))
    for k in range(folds):
        home = folder / f"fold_{k}"
        home.mkdir(exist_ok=True)
        if history and k <= finished:
            done = steps if k < finished else steps // 2
            lines = [
                {"step": t, "epoch": (t - 1) / 5}
                | {"total": 9 / t, "cls": 3 / t, "frl": 1.0, "mca": 2.0, "kept": 0.1}
                for t in range(1, done + 1)
            ]
            lines.insert(5, {"step": 5, "test_accuracy": 0.5})
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (home / "metrics.jsonl").write_text(text + '{"step": ')  # a killed write
        if k < finished:
            y = np.repeat(np.arange(each // 2) % len(classes), 2)
            scores = rng.normal(size=(each, len(classes)))
            scores[np.arange(each), y] += 1.0
            exp = np.exp(scores)
            table = Predictions(
                patient=tuple(
                    f"f{k}-{i // 2}" if patients else "" for i in range(each)
                ),
                image=tuple(f"f{k}-{i}.png" for i in range(each)),
                fold=np.full(each, k),
                y=y,
                prob=exp / exp.sum(axis=1, keepdims=True),
                error=("",) * each,
            )
            write_predictions(home / "predictions.csv", table)
    return folder


def write_focus_scores(run: Path, classes, images: int = 4) -> list[focus_table.Row]:
    """Writes scores of `focus` below a run: a map and a blind rule, random figures."""
    rng = np.random.default_rng(1)
    maps = (("eq1", "Eq. (1), block 3", False), ("darkest", "darkest patch", True))
    rows = [
        focus_table.Row(
            image=f"f0-{grade}-{i}.png",
            tile=0,
            patient=f"f0-{grade}-{i // 2}",
            fold="fold_0",
            grade=grade,
            explainer=name,
            title=title,
            blind=blind,
            figures=dict(zip(focus_table.FIGURES, rng.random(20), strict=False))
            | {"pointing": float(rng.random() < 0.5)},
        )
        for grade in classes
        for i in range(images)
        for name, title, blind in maps
    ]
    focus_table.write(run / "focus" / focus_table.FILE_NAME, rows)
    return rows
