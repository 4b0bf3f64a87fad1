"""Color baseline on the folds of a run: logistic regression on color statistics.

    python tools/color_baseline.py --store=data/cohort --workdir=runs/cohort

Features are the mean and standard deviation of each RGB channel of a region. A network
that is not clearly better may use color only.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from fof_jax.data import splits, store
from fof_jax.evaluation import metrics, tables
from fof_jax.inference import probe


def main(store_folder: Path, workdir: Path) -> None:
    """Prints the table of the color baseline."""
    data = store.open_store(store_folder.parent, store_folder.name)
    folds = splits.read_splits(workdir / "splits.json", data)
    fields = json.loads((workdir / "config.json").read_text())["fields"]
    pixels = (data.read(i, fields["data_image_size"]) for i in range(len(data)))
    features = np.array(
        [[*p.mean(axis=(0, 1)), *p.std(axis=(0, 1))] for p in pixels]
    )  # [n, 6]
    result = probe.predict(features, data, folds)
    print(
        tables.format_table(
            metrics.summarize(result),
            unit="region",
            scheme=folds.scheme,
            caption="Color only (mean and std of RGB, logistic regression)",
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    flags = parser.parse_args()
    main(flags.store, flags.workdir)
