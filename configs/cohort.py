"""Your own cohort: a table of images, a label column, biomarkers with gaps.

    python launch.py data build --config=configs/cohort.py --config.data.table=T.csv
    python launch.py --config=configs/cohort.py

The table is a CSV with `image` (paths relative to it), `patient`, `grade` and one
integer column a biomarker; empty or NA is unknown. Name yours in `data.classes` and
`data.biomarkers`; () is a cohort without biomarkers. Arguments as in gbmlgg.py.
"""

from ml_collections import ConfigDict, config_dict

from fof_jax.configs import gbmlgg


def get_config(arg: str = "") -> ConfigDict:
    """The paper's method and numbers on a table of yours."""
    config = gbmlgg.get_config(arg)
    config.paper_row = None  # another cohort: nothing of the paper to stand beside
    config.data.name = "cohort"
    # The table; `data build` reads it, training the store made from it.
    config.data.table = config_dict.placeholder(str)
    # From scratch; name a folder that `import` made to begin with weights.
    config.init.checkpoint = None
    return config
