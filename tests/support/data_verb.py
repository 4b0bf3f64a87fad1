"""Calls the `data` command in this process on a small cohort."""

import io

from ml_collections import ConfigDict

from fof_jax.cli.data import act
from tests.support.cohort_files import BIOMARKERS, CLASSES


def config_for(tmp_path, **data):
    fields = {
        "name": "cohort",
        "subset": "molecular",
        "dir": str(tmp_path / "data"),
        "raw_dir": "",
        "table": str(tmp_path / "table.csv"),
        "regions": 12,
        "image_size": 20,
        "classes": CLASSES,
        "biomarkers": BIOMARKERS,
        "biomarkers_per": "patient",
        "float_markers": (),
        "omics": (),
        "scheme": "patient",
        "splits_file": "",
        "small": "resize",
        "train_view": "resize",
        "test_view": "resize",
        "stain": "none",
        "balanced": False,
        "cache": "ram",
        "workers": 0,
        "threads": 2,
    }
    return ConfigDict({"seed": 42, "folds": 3, "data": {**fields, **data}})


def call(action, config):
    out = io.StringIO()
    assert act(action, config, out=out) == 0
    return out.getvalue()
