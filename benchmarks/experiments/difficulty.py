"""What the phantom's grade can be read from: the figures of docs/phantom.md.

    python benchmarks/experiments/difficulty.py --statistics
    python benchmarks/experiments/difficulty.py --network --workdir=runs/difficulty

`--statistics` draws regions and asks cheap classifiers: means and deviations of RGB and
of both stains, and the density of nuclei. `--network` trains a ViT on one fold of a
large cohort (going on where it was stopped) and shows it fresh patients: as they are,
with another's stain, without the structures, with another's density of nuclei. Both
write into --out, one entry a part, and print it.
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

RESULTS = Path(__file__).parents[1] / "results" / "difficulty.json"
FRESH = 1000  # added to the seed: patients that no cohort of the run has


def statistics(*, patients: int, image_size: int, seed: int) -> dict[str, Any]:
    """Five-fold accuracies of classifiers on statistics of one region a patient."""
    drawn = [cohort.draw_patient(seed, i) for i in range(patients)]
    grade = np.array([p.grade for p in drawn])
    images = (cohort.draw_region(p, 0, image_size=image_size).image for p in drawn)
    rgb, stains = (
        np.array(part) for part in zip(*map(colour_moments, images), strict=True)
    )
    density = np.array([[cohort.nuclei_density(p, 0)] for p in drawn])
    found = {
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
            found[f"{name}, {kind}"] = _accuracy(model, x, grade)
    return {k: round(float(v), 4) for k, v in found.items()}


def colour_moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations of R, G, B [6], and of haematoxylin and eosin [4]."""
    rgb = image.reshape(-1, 3).astype(np.float64)
    stains = (-np.log10((rgb + 1) / 256) @ np.linalg.pinv(STAINS))[:, :2]
    return tuple(np.concatenate([v.mean(axis=0), v.std(axis=0)]) for v in (rgb, stains))


def _accuracy(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    pred = cross_val_predict(make_pipeline(StandardScaler(), model), x, y, cv=5)
    return float(np.mean(pred == y))


def network(
    *, workdir: Path, regions: int, epochs: int, patients: int, seed: int
) -> dict[str, Any]:
    """Accuracies of a ViT of phantom.py:study on fresh patients and altered regions."""
    config = phantom_config.get_config("study-baseline")
    config.seed, config.fold, config.epochs = seed, 0, epochs
    config.data.regions = regions
    config.augment.stain = 0.1  # what Macenko's method leaves
    config.data.dir = str(workdir / "data")
    config.log_every = 200
    data = prepare.prepare(config)
    crossval.run(config, data, workdir / "run")
    method = build.build_program(config, data).method
    trained = weights.read(workdir / "run" / "fold_0")

    @jax.jit
    def predict(variables: Any, image: jax.Array) -> jax.Array:
        pixels = pipeline.normalise(image, color=config.data.color)
        return jax.nn.softmax(method.predict(variables, pixels))

    drawn = [cohort.draw_patient(seed + FRESH, i) for i in range(patients)]
    other = np.random.default_rng(seed).permutation(patients)
    grade = np.array([p.grade for p in drawn])

    def shown(**changed: Any) -> np.ndarray:
        images = []
        for i, patient in enumerate(drawn):
            options = {k: of(drawn[other[i]]) for k, of in changed.items()}
            region = cohort.draw_region(
                patient, 0, image_size=config.data.image_size, **options
            )
            # As the store decodes it.
            normalise = config.data.stain == "macenko"
            images.append(macenko(region.image) if normalise else region.image)
        parts = np.array_split(np.stack(images), max(1, patients // 50))
        return np.concatenate([np.asarray(predict(trained, p)) for p in parts])

    own = shown()
    stained = shown(stain=lambda p: p.stain)
    erased = shown(structures=lambda p: False)
    crowded = shown(density=lambda p: cohort.nuclei_density(p, 0))
    high = grade > 0

    def iii_iv(prob: np.ndarray) -> float:
        return np.mean(prob[high, 1:].argmax(axis=1) + 1 == grade[high])

    found = {
        "accuracy": np.mean(own.argmax(axis=1) == grade),
        "III against IV": iii_iv(own),
        "changed by another's stain": np.mean(
            own.argmax(axis=1) != stained.argmax(axis=1)
        ),
        "accuracy, another's stain": np.mean(stained.argmax(axis=1) == grade),
        "III against IV, structures erased": iii_iv(erased),
        "III against IV, another's density": iii_iv(crowded),
        "accuracy, another's density": np.mean(crowded.argmax(axis=1) == grade),
    }
    return {k: round(float(v), 4) for k, v in found.items()} | {
        "encoder": config.encoder,
        "image_size": config.data.image_size,
        "stain": config.data.stain,
        "regions": regions,
        "epochs": epochs,
        "patients": patients,
    }


def record(path: Path, part: str, found: dict[str, Any]) -> None:
    """Puts one part into the results file, beside the others, and prints it."""
    before = json.loads(path.read_text()) if path.exists() else {}
    before[part] = found | {"conditions": conditions()}
    files.write_text(path, json.dumps(before, indent=1) + "\n")
    print(json.dumps({part: before[part]}, indent=1))


def main() -> None:
    """The parts that are asked for."""
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
            found = statistics(
                patients=given.patients, image_size=side, seed=given.seed
            )
            record(given.out, f"statistics at {side}", found)
    if given.network:
        found = network(
            workdir=given.workdir,
            regions=given.regions,
            epochs=given.epochs,
            patients=given.patients,
            seed=given.seed,
        )
        record(given.out, "network", found)


if __name__ == "__main__":
    main()
