"""Records the loss terms and the norms of their gradients during training.

    python benchmarks/experiments/terms.py --row=FoF --workdir=runs/terms
    python benchmarks/experiments/terms.py --row=release --workdir=runs/terms

One fold of `configs/phantom.py:study`. Every 25 steps, on the training batch: each term
of Eq. (6), unweighted; the norm of its weighted gradient with respect to the encoder;
the fraction of kept patches. Written to benchmarks/results/terms-ROW.json and plotted
to terms-ROW.png in the same folder. The last line is the last step as JSON.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.conditions import conditions
from benchmarks.experiments.ablation import SETS, cell_config
from fof_jax import files
from fof_jax.data import loader, metadata, prepare, splits, store
from fof_jax.training import optimizer
from fof_jax.training import state as training_state
from fof_jax.training.build import INIT, build
from fof_jax.types import StepContext, Variables

RESULTS = Path(__file__).parents[1] / "results"
COHORT_SEED = SETS["ablation"].cohort
EVERY = 25
# Term -> config field of its weight; None for 1.
TERMS: dict[str, dict[str, str | None]] = {
    "fof": {
        "cls_glb": None,
        "cls_pos": "lambda_pos",
        "cls_neg": "lambda_neg",
        "frl": "lambda_frl",
        "mca": "lambda_mca",
    },
    "release": {
        "global_cls": None,
        "pos_cls": None,
        "neg_cls": "lambda_neg",
        "region": "lambda_region",
        "dis_gene": "lambda_dis_gene",
    },
}


def measure(config: ConfigDict, data: store.Store, fold: int) -> list[dict[str, float]]:
    """Terms, norms of weighted gradients and kept patches, every `EVERY` steps."""
    setup = build(config, metadata.dataset_info(data))
    weight_of = _weights(config)
    folds = splits.make_splits(
        data, scheme=config.data.scheme, folds=config.folds, seed=COHORT_SEED
    )
    rows = folds.folds[fold][0]
    per_epoch = loader.steps_per_epoch(len(rows), config.batch_size)
    total = config.epochs * per_epoch
    batches = loader.train_batches(
        data,
        rows,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        image_size=config.data.image_size,
        balanced=config.data.balanced,
    )
    first = next(batches)
    key = jax.random.fold_in(jax.random.fold_in(setup.key, INIT), fold)
    state = training_state.initial_state(setup.method, setup.optimizer, key, first)

    @jax.jit
    def pulls(state: training_state.TrainState, batch: Any, t: Any) -> dict[str, Any]:
        drawn = setup.augment(batch)
        ctx = StepContext(key=jax.random.fold_in(setup.step_key, t), step=t)

        def terms(params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            variables = Variables(params=params, state=state.state)
            _, aux = setup.method.loss(variables, drawn, ctx)
            return {name: aux.metrics[name] for name in weight_of}, aux.metrics

        gradients, metrics = jax.jacrev(terms, has_aux=True)(state.params)
        norms = {
            f"pull {name}": weight * optax.tree.norm(_encoder(gradients[name]))
            for name, weight in weight_of.items()
        }
        return norms | {name: metrics[name] for name in (*weight_of, "kept")}

    @jax.jit
    def update(state: training_state.TrainState, batch: Any, rate: Any) -> Any:
        return training_state.update(
            setup.method,
            setup.optimizer,
            state,
            setup.augment(batch),
            training_state.Schedule(learning_rate=rate),
            {},
            jax.random.fold_in(setup.step_key, state.step),
        )[0]

    records, batch = [], first
    for t in range(total):
        if t % EVERY == 0 or t == total - 1:
            values = jax.device_get(pulls(state, batch, t))
            records.append({"step": t} | {k: float(v) for k, v in values.items()})
            print(f"step {t} of {total}", file=sys.stderr)
        rate = optimizer.learning_rate(config, t, steps_per_epoch=per_epoch)
        state = update(state, batch, jnp.float32(rate))
        batch = next(batches, batch)
    return records


def _weights(config: ConfigDict) -> dict[str, float]:
    named = TERMS[config.method].items()
    return {name: float(config[field]) if field else 1.0 for name, field in named}


def _encoder(gradient: Any) -> Any:
    """The encoder's part of a tree, which every term depends on."""
    return gradient.get("encoder") or gradient["model"]["encoder"]


def plot(rows: list[dict[str, float]], path: Path, title: str) -> None:
    """Plots terms, gradient norms and kept patches over the steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    steps = [f["step"] for f in rows]
    names = [k.removeprefix("pull ") for k in rows[0] if k.startswith("pull ")]
    fig, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for name in names:
        axes[0].plot(steps, [f[name] for f in rows], label=name)
        axes[1].plot(steps, [f[f"pull {name}"] for f in rows], label=name)
    axes[2].plot(steps, [100 * f["kept"] for f in rows], color="0.3")
    for ax, label in zip(
        axes,
        ("term, unweighted (nats)", "norm of gradient x weight", "kept patches (%)"),
        strict=True,
    ):
        ax.set(xlabel="step", ylabel=label)
    for ax in axes[:2]:
        ax.set_yscale("log")
    lines, labels = axes[0].get_legend_handles_labels()
    fig.legend(lines, labels, loc="outside lower center", ncols=5, frameon=False)
    fig.suptitle(title)
    fig.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> None:
    """Trains, measures, writes and plots."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--row", choices=("FoF", "release"), default="FoF")
    flags.add_argument("--seed", type=int, default=42)
    flags.add_argument("--fold", type=int, default=0)
    flags.add_argument("--workdir", type=Path, default=Path("runs/terms"))
    flags.add_argument("--results", type=Path, default=RESULTS)
    flags.add_argument("--regions", type=int, help="for a smaller run")
    flags.add_argument("--epochs", type=int, help="for a smaller run")
    given = flags.parse_args(argv)
    changes = {
        field: value
        for field, value in (("data.regions", given.regions), ("epochs", given.epochs))
        if value is not None
    }
    config = cell_config("ablation", given.row, COHORT_SEED, given.fold, changes)
    config.data.dir = str(given.workdir / "data")
    data = prepare.prepare(config)
    config.seed = given.seed
    rows = measure(config, data, given.fold)
    given.results.mkdir(parents=True, exist_ok=True)
    stem = f"terms-{given.row}"
    rounded = [{k: round(v, 5) for k, v in f.items()} for f in rows]
    result = {"row": given.row, "steps": rounded, "conditions": conditions()}
    files.write_text(given.results / f"{stem}.json", json.dumps(result) + "\n")
    plot(rows, given.results / f"{stem}.png", f"{given.row} on the phantom's study")
    last = {k: float(np.round(v, 4)) for k, v in rows[-1].items()}
    print(json.dumps(last))


if __name__ == "__main__":
    main()
