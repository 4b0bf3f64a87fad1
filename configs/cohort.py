"""A user's cohort: a CSV table of images, patients, grades and biomarkers.

    python launch.py data build --config=configs/cohort.py --config.data.table=T.csv
    python launch.py --config=configs/cohort.py

`python launch.py data init T.csv` writes a config with all fields of a table set.

The table is a CSV with `image` (paths relative to it, of images or of HDF5 files of
patch features), `patient`, `grade` and one integer column per biomarker; empty or NA
means unknown. Set `data.classes` and `data.biomarkers` accordingly; () for no
biomarkers. Arguments as in gbmlgg.py, and `release` for the authors' code
(gbmlgg_release.py).
"""

from ml_collections import ConfigDict, config_dict

from fof_jax.configs import gbmlgg, gbmlgg_release


def get_config(arg: str = "") -> ConfigDict:
    """The paper's method and hyperparameters on another cohort."""
    release = arg == "release"
    config = gbmlgg_release.get_config() if release else gbmlgg.get_config(arg)
    config.paper_row = None  # results of another cohort are not comparable
    config.data.name = "cohort"
    # The CSV table, read by `data build`; training reads the store.
    config.data.table = config_dict.placeholder(str)
    # Names of the table's columns, where they differ from these.
    config.data.columns = ConfigDict()
    config.data.columns.image = "image"
    config.data.columns.patient = "patient"
    config.data.columns.grade = "grade"
    config.data.columns.fold = "fold"
    config.data.columns.mask = "mask"
    # Words that columns of markers have in the place of integers, as "WORD=INTEGER", or
    # "WORD=" for unknown; case does not matter.
    config.data.words = ()
    # Rows without a grade are an error, or left out: skip.
    config.data.ungraded = "error"
    # Side of a patch in level-0 pixels, for HDF5 files of features that do not state it
    # (docs/bags.md).
    config.data.patch_size = config_dict.placeholder(float)
    # [n] Most patches of a bag in training, sampled anew in each epoch; unset: all. At
    # test all patches are used.
    config.data.max_tokens = config_dict.placeholder(int)
    # From scratch; or a folder of pretrained weights from `import`.
    config.init.checkpoint = None
    return config
