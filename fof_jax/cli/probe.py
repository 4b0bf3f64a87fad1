"""Linear probe: logistic regression on stored features, folds by patient.

python launch.py features --checkpoint=weights/dinov2-s14 --images=T.csv --out=features
python launch.py data build --config=configs/cohort.py \
    --config.data.table=features/table.csv
python launch.py probe --config=configs/cohort.py --out=probe.csv

The mean feature of the patches of each bag is standardized by the training set of its
fold. `data.scheme`, `folds` and `seed` are those of a run. `--out` is a table of
predictions that `eval` and `compare` read.
"""

import argparse
import sys
from pathlib import Path

from fof_jax.cli import config as config_flag
from fof_jax.data import splits
from fof_jax.data.prepare import data_seed, prepare
from fof_jax.evaluation import metrics, predictions, tables


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --config, --strength and --out."""
    parser.add_argument(
        "--strength",
        type=float,
        default=1.0,
        metavar="C",
        help="inverse of the penalty on the weights (default: 1)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="predictions of the test folds (CSV)"
    )
    config_flag.add_help(parser)


def run(flags: argparse.Namespace) -> int:
    """Prints the table of the probe."""
    # Imported here: help and bad flags need no scikit-learn.
    from fof_jax.inference import probe

    if not flags.strength > 0:
        raise ValueError(f"--strength: got {flags.strength}, expected above 0.")
    config = config_flag.load(flags.config_words)
    store = prepare(config, out=sys.stdout)
    if store.bags is None:
        raise ValueError(
            f"probe: {store.folder} holds images, expected patch features (HDF5). "
            "Write them by `features`, and build a store of OUT/table.csv."
        )
    folds = splits.make_splits(
        store,
        scheme=config.data.scheme,
        folds=config.folds,
        seed=data_seed(config),
    )
    tested = probe.predict(
        probe.mean_features(store.bags), store, folds, strength=flags.strength
    )
    if flags.out is not None:
        predictions.write_predictions(flags.out, tested)
    table = tables.format_table(
        metrics.summarize(tested),
        unit="region",
        scheme=folds.scheme,
        caption=f"Linear probe, mean of the patches, {config.data.name}",
    )
    print(table)
    return 0
