"""Rows of the paper's Tables I and II that are not FoF, on the phantom.

    python launch.py --config=configs/comparison.py:fusion.scnn
    python launch.py --config=configs/comparison.py:distill.pkt --config.fold=0

The argument is a row of `ROWS`. All rows are in the form `common`: encoder, folds,
schedule and budget of FoF's first run (configs/phantom.py), from scratch. The published
forms, with their own encoders and optimizers, are not configured; docs/methods.md says
what each row takes from its source. Students learn from the DGKD model of the same
fold, which is trained first, in the folder `teacher` of the fold.

Results: none over five folds. Fold 0 alone, one CPU core (AMD EPYC) under other load,
2026-11-25, per region, micro AUC and accuracy: omics 79.27, 61.00; fusion.scnn 81.41,
63.75; fusion.gpdbn 77.22, 57.25; fusion.pathomic 85.17, 69.25; distill.pkt 84.62,
66.25.
The other rows have not been trained to the end.
"""

from ml_collections import ConfigDict, config_dict

from fof_jax.configs import phantom
from fof_jax.data.datasets.phantom.omics import OMIC_NAMES

DIRECT = (
    "omics",
    "fusion.concat",
    "fusion.scnn",
    "fusion.pathomic",
    "fusion.gpdbn",
    "fusion.hfbsurv",
    "fusion.ddmnet",
    "fusion.foaa",
    "distill.dgkd",
)
STUDENTS = (
    "distill.kl",
    "distill.features_kl",
    "distill.pkt",
    "distill.sp",
    "distill.rkd",
    "distill.crd",
    "distill.hkd",
    "distill.sckd",
    "distill.dgkd_student",
)
ROWS = DIRECT + STUDENTS


def get_config(arg: str = "distill.dgkd") -> ConfigDict:
    """The config of a row."""
    row = arg or "distill.dgkd"
    if row not in ROWS:
        raise ValueError(
            f"configs/comparison.py: row {row!r} does not exist. Expected one of "
            f"{', '.join(ROWS)}."
        )
    config = phantom.get_config("baseline")
    config.method = row
    config.data.omics = OMIC_NAMES

    # MaxNet, METHODS.md 5.0.
    config.omics = ConfigDict()
    config.omics.features = 32  # [n]
    config.omics.dropout = 0.25  # [n]
    config.omics.rectify = False  # [n] whether ReLU ends the features

    # Fusion rows. [n]
    config.fusion = ConfigDict()
    config.fusion.image_features = 64  # width of both features; FOAA's published width
    config.fusion.dropout = 0.25
    config.fusion.cut_gradient = False  # whether the fusion's gradient stops there
    # Pathomic: single_stage trains all at once, two_stage requires earlier stages.
    config.fusion.form = "single_stage"
    config.fusion.over_entries = False  # FOAA: the intended quotient, not the published
    config.fusion.modality_dropout = 0.0  # DDM-net

    # DGKD's mean-teacher model. [n]
    config.dgkd = ConfigDict()
    config.dgkd.features = 64
    config.dgkd.dropout = 0.1
    config.dgkd.cut_gradient = True  # the fusion's gradient stops at the features
    config.dgkd.decay = 0.99  # of the moving average
    config.dgkd.l1 = 3e-4  # of the omics branch
    config.dgkd.as_published = False

    # Students. [n] total = CE + alpha KL + beta R.
    config.distill = ConfigDict()
    config.distill.alpha = 1.0
    config.distill.temperature = 1.0
    # Unset is measured on the first 20 batches: beta makes R as large as the KL term.
    config.distill.beta = config_dict.placeholder(float)
    config.distill.ramp_epochs = config_dict.placeholder(int)  # CRD: 30 as published
    config.distill.mask = "sample"  # SCKD: mask by sample or by batch
    config.distill.as_published = False
    if row == "distill.dgkd_student":
        config.distill.beta = 0.02  # published; its rule weighs the terms itself
    if row in STUDENTS:
        config.stages = ("teacher", "student")
        config.teacher = ConfigDict({"method": "distill.dgkd"})
        config.student = ConfigDict({"method": row})
    return config
