"""The phantom, a synthetic cohort: a complete run on two CPU cores.

    python launch.py --config=configs/phantom.py --workdir=runs/phantom
    python launch.py --config=configs/phantom.py:study-wo_frl
    python launch.py --config=configs/phantom.py:large

Hardware: two CPU cores (Intel Xeon with AMX), JAX 0.10.2. Time of the first run: 2 min
53 s, with generation and compilation. Result of 2026-11-27, five folds by patient, per
region: micro AUC 80.93 ± 1.39, AP 69.14 ± 2.51, accuracy 63.00 ± 1.06, kappa 44.50 ±
1.59.

A size, `tables`, `study` or `large`, and a row, as in gbmlgg.py or `release` for the
authors' code (gbmlgg_release.py); either or both, joined by a dash:

* none: the first run. 2,000 regions of 64 pixels, a field of 128 um.
* `tables`: of configs/comparison.py: the same regions, a larger encoder.
* `study`: for the difficulty and ablation studies (difficulty.py and ablation.py in
  benchmarks/experiments): as `tables`, more epochs at a lower learning rate.
* `large`: the paper's image size, 1,024 pixels or 512 um, encoder and batch, for a GPU.
  Only its step has been traced.

The phantom and its limits: docs/phantom.md.
"""

from ml_collections import ConfigDict

from fof_jax.configs import gbmlgg, gbmlgg_release

SIZES = ("tables", "study", "large")
ROWS = (*gbmlgg.ARGUMENTS[1:], "release")


def get_config(arg: str = "") -> ConfigDict:
    """A small encoder from scratch, few epochs, small images; or a larger run."""
    size, row = _parse(arg)
    if row == "release":
        config = gbmlgg_release.get_config()
    else:
        config = gbmlgg.get_config(row)
        # Eq. (5) sums over positives, whose number grows with the batch: at 16 images
        # the sum would be most of the loss. The mean keeps its weight (P9).
        config.mca.normalize_positives = size != "large"
    config.init.checkpoint = None  # from scratch: nothing to download
    config.paper_row = None
    config.data.name = "phantom"
    # Number of regions to generate, one to three per patient. [n]
    config.data.regions = 1325 if size == "large" else 2000
    # Like the regions of TCGA. Stains of the phantom vary widely, and a short run has
    # too few regions to become invariant to them.
    config.data.stain = "macenko"
    if size == "large":
        # The number of regions, the encoder, the batch and the epochs are the paper's.
        config.optimizer.warmup_epochs = 5  # from scratch
        config.compute_dtype = "auto"
        return config
    config.data.image_size = 64
    config.pathgcn.mpp = 2.0  # 128 um in 64 pixels
    config.pathgcn.bucket = 32  # about 40 nuclei
    config.batch_size = 16
    # From scratch, more regions help more than more epochs. The first run has the
    # smallest encoder, of two blocks, whose step takes less than a third of the time.
    config.encoder = "mu/8" if size else "nano/8"
    config.epochs = {"": 12, "tables": 6, "study": 10}[size]
    # At 64 pixels a nucleus is four pixels wide, and resampling would blur what
    # distinguishes the grades. Stains are normalized, so color jitter is off, too.
    config.augment.crop_area = (1.0, 1.0)
    config.augment.crop_aspect = (1.0, 1.0)
    config.augment.elastic = 0.0
    config.augment.jitter = 0.0
    # From scratch, with a third or a sixth of the width. That of the first run was
    # chosen on two folds of seed 7 (docs/phantom.md).
    config.optimizer.learning_rate = {"": 6e-3, "tables": 3e-3, "study": 2e-3}[size]
    config.optimizer.warmup_epochs = 1
    config.eval_batch_size = 32
    # With 64 tokens the attention matrix takes a few kilobytes.
    config.attention = "naive"
    config.remat = "none"
    if not size:
        config.unroll = 2  # no loop (docs/performance.md)
    config.cpu_devices = 2
    return config


def _parse(arg: str) -> tuple[str, str]:
    """Splits an argument into size and row; "" for none."""
    words = arg.split("-") if arg else []
    size = words.pop(0) if words and words[0] in SIZES else ""
    row = words.pop(0) if words and words[0] in ROWS else ""
    if words:
        raise ValueError(
            f"configs/phantom.py: argument {arg!r} does not exist. Expected one of "
            f"{', '.join(ROWS)}, or a size ({', '.join(SIZES)}), or both as in "
            "study-wo_frl, or none."
        )
    return size, row
