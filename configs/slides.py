"""Slides as bags: a CSV table of HDF5 files of patch features.

    python launch.py data build --config=configs/slides.py --config.data.table=T.csv
    python launch.py --config=configs/slides.py

The files hold features of a frozen encoder and coordinates, as CLAM, TRIDENT and STAMP
write them (docs/bags.md). The table is that of cohort.py. Arguments: `wo_frl`, `wo_mca`
and `baseline` as in gbmlgg.py; `abmil` and `mean_pooling` are rows of slides alone.

Hardware, time and results of the study on bags of real tiles: docs/results.md.
"""

from ml_collections import ConfigDict

from fof_jax.configs import cohort, gbmlgg

ROWS = ("abmil", "mean_pooling")
ARGUMENTS = (*gbmlgg.ARGUMENTS, *ROWS)


def get_config(arg: str = "") -> ConfigDict:
    """The paper's method on bags of patch features, or a row beside it."""
    if arg not in ARGUMENTS:
        raise ValueError(
            f"configs/slides.py: argument {arg!r} does not exist. Expected one of "
            f"{', '.join(ARGUMENTS[1:])}, or none."
        )
    config = cohort.get_config("" if arg in ROWS else arg)
    if arg in ROWS:
        config.method = arg
    # [n] SIZE/features: a linear layer over the features, and the blocks of the ViT of
    # that size (fof_jax/models/vit_variants.py). mu has four blocks of width 64: slides
    # are few, and their features come from a large encoder.
    config.encoder = "mu/features"
    config.bags = ConfigDict()
    # [n] Positions of the patches: sincos of their coordinates in units of a patch
    # side, or none.
    config.bags.positions = "sincos"
    # [n] Features with mean 0 and standard deviation 1 on the training fold. Those of
    # some encoders have a large part that all patches share (docs/results.md).
    config.bags.standardize = True
    # [n] Widths of the embedding and of the attention of `abmil`: 512 as in CLAM, 128
    # as in Ilse et al. 2018, Sec. 4.
    config.bags.width = 512
    config.bags.attention = 128
    # [n] Most patches of a slide in training, sampled anew in each epoch. At test all
    # patches are used.
    config.data.max_tokens = 1024
    # Features are read when needed: ram keeps them all.
    config.data.cache = "none"
    # [n] Eq. (5) sums over positives, whose number grows with the batch; the mean keeps
    # its weight (P9).
    config.mca.normalize_positives = True
    config.batch_size = 16
    # One slide at a time, so that a large one fits (docs/bags.md).
    config.eval_batch_size = 1
    # [n] From scratch, and small. Not in the paper.
    config.epochs = 20
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_epochs = 1
    return config
