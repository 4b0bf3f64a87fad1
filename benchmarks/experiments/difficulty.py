"""Measures how well the phantom's grade can be predicted, for docs/phantom.md.

    python benchmarks/experiments/difficulty.py --statistics
    python benchmarks/experiments/difficulty.py --network --workdir=runs/difficulty

`--statistics` fits simple classifiers to means and stds of RGB and of both stains, and
to the density of nuclei. `--network` trains a ViT on one fold of a large cohort (an
interrupted training is resumed) and tests it on new patients: unchanged, with another
patient's stain, without the structures, with another patient's density of nuclei. Both
write an entry into --out and print it.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.conditions import conditions
from fof_jax import files
from fof_jax.configs import phantom as phantom_config
from fof_jax.data import prepare
from fof_jax.data.augment import pipeline
from fof_jax.data.augment.color import STAINS
from fof_jax.data.datasets.phantom import cohort
from fof_jax.data.stain import macenko
from fof_jax.training import build, crossval, weights
from fof_jax.types import Batch

RESULTS = Path(__file__).parents[1] / "results" / "difficulty.json"
NEW_PATIENTS = 1000  # added to the seed, for patients that are in no cohort of the run


def statistics(*, patients: int, image_size: int, seed: int) -> dict[str, Any]:
    """Five-fold accuracies of classifiers on statistics of one region per patient."""
    sampled = [cohort.draw_patient(seed, i) for i in range(patients)]
    grade = np.array([p.grade for p in sampled])
    images = (cohort.draw_region(p, 0, image_size=image_size).image for p in sampled)
    rgb, stains = (
        np.array(part) for part in zip(*map(color_moments, images), strict=True)
    )
    density = np.array([[cohort.nuclei_density(p, 0)] for p in sampled])
    result = {
        "majority": np.bincount(grade).max() / patients,
        "density alone, tree": _accuracy(
            DecisionTreeClassifier(max_depth=3), density, grade
        ),
    }
    for name, x in (
        ("RGB", rgb),
        ("stains", stains),
        ("RGB and stains", np.hstack([rgb, stains])),
    ):
        for kind, model in (
            ("logistic", LogisticRegression(max_iter=3000)),
            ("SVM", SVC(C=3)),
            ("forest", RandomForestClassifier(300, random_state=0, min_samples_leaf=3)),
        ):
            result[f"{name}, {kind}"] = _accuracy(model, x, grade)
    return {k: round(float(v), 4) for k, v in result.items()}


def color_moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and stds of R, G, B [6], and of hematoxylin and eosin [4]."""
    rgb = image.reshape(-1, 3).astype(np.float64)
    stains = (-np.log10((rgb + 1) / 256) @ np.linalg.pinv(STAINS))[:, :2]
    return tuple(np.concatenate([v.mean(axis=0), v.std(axis=0)]) for v in (rgb, stains))


def _accuracy(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    pred = cross_val_predict(make_pipeline(StandardScaler(), model), x, y, cv=5)
    return float(np.mean(pred == y))


def network(
    *, workdir: Path, regions: int, epochs: int, patients: int, seed: int
) -> dict[str, Any]:
    """Accuracies of a ViT of phantom.py:study on new patients and altered regions."""
    config = phantom_config.get_config("study-baseline")
    config.seed, config.fold, config.epochs = seed, 0, epochs
    config.data.regions = regions
    config.augment.stain = 0.1  # variation that remains after Macenko normalization
    config.data.dir = str(workdir / "data")
    config.log_every = 200
    data = prepare.prepare(config)
    crossval.run(config, data, workdir / "run")
    method = build.method_of(config)
    trained = weights.read(workdir / "run" / "fold_0")

    @jax.jit
    def predict(variables: Any, image: jax.Array) -> jax.Array:
        pixels = pipeline.normalize(image, color=config.data.color)
        return jax.nn.softmax(method.apply(variables, Batch(image=pixels)).logits)

    sampled = [cohort.draw_patient(seed + NEW_PATIENTS, i) for i in range(patients)]
    other = np.random.default_rng(seed).permutation(patients)
    grade = np.array([p.grade for p in sampled])

    def predictions(**changed: Any) -> np.ndarray:
        images = []
        for i, patient in enumerate(sampled):
            options = {k: of(sampled[other[i]]) for k, of in changed.items()}
            region = cohort.draw_region(
                patient, 0, image_size=config.data.image_size, **options
            )
            # As the store decodes it.
            normalize = config.data.stain == "macenko"
            images.append(macenko(region.image) if normalize else region.image)
        parts = np.array_split(np.stack(images), max(1, patients // 50))
        return np.concatenate([np.asarray(predict(trained, p)) for p in parts])

    unchanged = predictions()
    stained = predictions(stain=lambda p: p.stain)
    erased = predictions(structures=lambda p: False)
    crowded = predictions(density=lambda p: cohort.nuclei_density(p, 0))
    high = grade > 0

    def iii_iv(prob: np.ndarray) -> float:
        return np.mean(prob[high, 1:].argmax(axis=1) + 1 == grade[high])

    result = {
        "accuracy": np.mean(unchanged.argmax(axis=1) == grade),
        "III against IV": iii_iv(unchanged),
        "changed by another's stain": np.mean(
            unchanged.argmax(axis=1) != stained.argmax(axis=1)
        ),
        "accuracy, another's stain": np.mean(stained.argmax(axis=1) == grade),
        "III against IV, structures erased": iii_iv(erased),
        "III against IV, another's density": iii_iv(crowded),
        "accuracy, another's density": np.mean(crowded.argmax(axis=1) == grade),
    }
    return {k: round(float(v), 4) for k, v in result.items()} | {
        "encoder": config.encoder,
        "image_size": config.data.image_size,
        "stain": config.data.stain,
        "regions": regions,
        "epochs": epochs,
        "patients": patients,
    }


def record(path: Path, part: str, result: dict[str, Any]) -> None:
    """Updates one entry of the results file and prints it."""
    results = json.loads(path.read_text()) if path.exists() else {}
    results[part] = result | {"conditions": conditions()}
    files.write_text(path, json.dumps(results, indent=1) + "\n")
    print(json.dumps({part: results[part]}, indent=1))


def main() -> None:
    """Runs the selected parts."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--statistics", action="store_true")
    flags.add_argument("--network", action="store_true")
    flags.add_argument("--image_size", type=int, action="append")
    flags.add_argument("--patients", type=int, default=900)
    flags.add_argument("--regions", type=int, default=6000)
    flags.add_argument("--epochs", type=int, default=30)
    flags.add_argument("--seed", type=int, default=11)
    flags.add_argument("--workdir", type=Path, default=Path("runs/difficulty"))
    flags.add_argument("--out", type=Path, default=RESULTS)
    given = flags.parse_args()
    if not (given.statistics or given.network):
        flags.error("pass --statistics, --network, or both")
    if given.statistics:
        for side in given.image_size or (64, 256):
            result = statistics(
                patients=given.patients, image_size=side, seed=given.seed
            )
            record(given.out, f"statistics at {side}", result)
    if given.network:
        result = network(
            workdir=given.workdir,
            regions=given.regions,
            epochs=given.epochs,
            patients=given.patients,
            seed=given.seed,
        )
        record(given.out, "network", result)


if __name__ == "__main__":
    main()
