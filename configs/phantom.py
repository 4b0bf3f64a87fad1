"""A procedural cohort, drawn on the spot: a complete run on two CPU cores.

    python launch.py --config=configs/phantom.py --workdir=runs/phantom

Arguments as in gbmlgg.py.
"""

from ml_collections import ConfigDict

from configs import gbmlgg


def get_config(arg: str = "") -> ConfigDict:
    """A small encoder from scratch, few epochs, small images."""
    config = gbmlgg.get_config(arg)
    config.paper_row = None
    config.data.name = "phantom"
    # Regions to draw, one to three a patient. [n]
    config.data.regions = 360
    config.data.image_size = 64
    config.encoder = "mu/8"
    config.batch_size = 16
    config.epochs = 30
    config.optimizer.learning_rate = 1e-3  # from scratch, and a tenth of the width
    config.optimizer.warmup_epochs = 2
    config.eval_batch_size = 32
    return config
