"""All rows of the paper's Tables I and II, like for like.

    python launch.py compare --config=configs/comparison.py --workdir=runs/tables
    python launch.py --config=configs/comparison.py:fusion.scnn
    python launch.py --config=configs/comparison.py:gbmlgg-distill.pkt --config.fold=0
    python launch.py --config=configs/comparison.py:distill.crd,as_published

The argument is a data set, a row of `ROWS`, or both joined by a dash; none is
phantom-fof. `compare` takes the data set and trains every row, with a form behind it
(`gbmlgg,as_published`) in that form where the row has it.

* `phantom`: the synthetic cohort with its omics columns; small images, few epochs.
* `gbmlgg`: TCGA GBM-LGG, the 664 patients with molecular data, 1,024 pixels.
* `cohort`: your own table (configs/cohort.py); omics are its columns `data.omics`.

Rows are in the form `common`: encoder, folds by patient, schedule and budget of FoF.
`,as_published` gives a row the encoder, optimizer, schedule and quirks of its public
code (published_forms.py), on the same folds; docs/methods.md says what each row takes
from its source. Students learn from the DGKD model of the same fold, which is trained
first, in the folder `teacher` of the fold or in `teacher_dir`.

Results: docs/results.md.
"""

from ml_collections import ConfigDict, config_dict

from fof_jax.configs import (
    cohort,
    gbmlgg,
    gbmlgg_release,
    phantom,
    published_forms,
)
from fof_jax.data.datasets.phantom.omics import OMIC_NAMES
from fof_jax.evaluation import published

DATA = ("phantom", "gbmlgg", "cohort")
# Row -> argument of the data set's own config. Their test input is the image alone.
IMAGE = {
    "fof": "",
    "wo_frl": "wo_frl",
    "wo_mca": "wo_mca",
    "vit": "baseline",
    "release": "release",
}
# Row -> method and encoder: the row's own, on FoF's folds, schedule and budget. The
# window of SwinV2 is in tokens of 4 pixels: 8, as published, divides the maps of 1,024
# pixels; at 64 pixels it leaves one stage of four with more than one window, 4 two.
ENCODERS = {
    "image.resnet18": ("pathcnn", "resnet18"),
    # The published trunk has ImageNet weights and is frozen; here it is trained.
    "image.vgg19bn": ("pathcnn_vgg", "vgg19bn_unfrozen"),
    "image.swinv2": ("swinv2", "swinv2_tiny/8"),
}
SMALL_IMAGES = {"swinv2_tiny/8": "swinv2_tiny/4"}
# Row -> fields that make it what it is: `compare` keeps them where --config.FIELD sets
# them for all rows.
FIXED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(ENCODERS, ("method", "encoder")),
    "image.vgg19bn": ("method", "encoder", "optimizer.learning_rate"),
    "pathgcn": tuple(published_forms.PATHGCN_OPTIMIZER),
}
# Reads cell graphs, which `data graphs` builds first.
GRAPHS = ("pathgcn",)
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
    "distill.clat",
)
ROWS = (*IMAGE, *ENCODERS, *GRAPHS, *DIRECT, *STUDENTS)
# Form -> the rows that have it; in `compare` the others keep the common one.
FORMS = {"common": ROWS, "as_published": tuple(published_forms.FIELDS)}


def get_config(arg: str = "") -> ConfigDict:
    """The config of a row on a data set, in one of two forms."""
    data, row, form = _parse(arg)
    config = _row(data, row)
    if form == "as_published":
        _publish(config, row)
    return config


def _publish(config: ConfigDict, row: str) -> None:
    """Sets the fields of published_forms.py; those of a stage are below its name."""
    with config.unlocked(), config.ignore_type():
        for name, value in published_forms.FIELDS[row].items():
            if isinstance(value, dict):
                config[name] = ConfigDict(_nested(value))
            else:
                config.update_from_flattened_dict({name: value})


def _nested(fields: published_forms.Fields) -> published_forms.Fields:
    """Fields by dotted name as nested dictionaries."""
    out: published_forms.Fields = {}
    for name, value in fields.items():
        *sections, last = name.split(".")
        place = out
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return out


def _row(data: str, row: str) -> ConfigDict:
    config = _on_data(data, IMAGE.get(row, "baseline"))
    # Of the figures, those of other data are not comparable.
    config.paper_row = published.label_of(row) if data == "gbmlgg" else None
    config.data.scheme = "patient"  # the authors' code splits regions
    if data == "phantom":
        # The same store for all rows. Float markers are read by the release alone.
        config.data.omics = OMIC_NAMES
        config.data.float_markers = gbmlgg_release.get_config().data.float_markers
    if row in IMAGE:
        return config
    if row in ENCODERS:
        config.method, config.encoder = ENCODERS[row]
        config.init.checkpoint = None  # from scratch; or the folder of an `import`
        if data == "phantom":
            config.encoder = SMALL_IMAGES.get(config.encoder, config.encoder)
        if row == "image.vgg19bn":
            # [n] The published rate: at FoF's own the network stays at chance.
            config.optimizer.learning_rate = 5e-4
        return config
    config.method = row
    if row in GRAPHS:
        # The published optimizer: FoF's rate is one for fine-tuning an encoder.
        config.init.checkpoint = None
        with config.unlocked(), config.ignore_type():
            config.update_from_flattened_dict(published_forms.PATHGCN_OPTIMIZER)
        return config

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
    # Unset: 0 in the first 20 batches, then R becomes half as large as the KL term.
    config.distill.beta = config_dict.placeholder(float)
    config.distill.ramp_epochs = config_dict.placeholder(int)  # CRD: 30 as published
    config.distill.mask = "sample"  # SCKD: mask by sample or by batch
    config.distill.as_published = False
    if row == "distill.dgkd_student":
        config.distill.beta = 0.02  # published; its rule weighs the terms itself
    if row == "distill.clat":
        _add_clat(config)
    if row in STUDENTS:
        config.stages = ("teacher", "student")
        clat = row == "distill.clat"
        method = "distill.clat_multimodal" if clat else "distill.dgkd"
        config.teacher = ConfigDict({"method": method})
        config.student = ConfigDict({"method": row})
    return config


def _add_clat(config: ConfigDict) -> None:
    """CLAT's fields, of both stages; methods/clat_pathgcn.md. [n]"""
    config.clat = ConfigDict()
    config.clat.features = 64  # width of all features
    config.clat.dropout = 0.1
    config.clat.superpixels = 100  # of an image; kept beside the store
    config.clat.masked_superpixels = 4  # of whole images; published 1 of half a side
    config.clat.masked_omics = 5
    config.clat.mask_from = 1 / 30  # fraction of the training before masking begins
    config.clat.l1 = 3e-4  # of the omics branch
    config.clat.ema_decay = 0.99
    config.clat.embedding = 128  # of the contrast
    config.clat.positives = 6
    config.clat.alpha = 1.0  # of the divergences
    config.clat.beta = 0.05  # of the contrasts
    config.clat.temperature = 0.07
    config.clat.bank_momentum = 0.5
    config.clat.query_cap = 1.0
    config.clat.threshold = 0.25  # of the gradients' cosines
    config.clat.as_published = False  # train-mode teachers and absent superpixels


def _parse(arg: str) -> tuple[str, str, str]:
    """Splits an argument into data set, row and form."""
    arg, _, form = arg.partition(",")
    form = form or "common"
    data, _, row = arg.partition("-")
    if data not in DATA:
        data, row = "phantom", arg
    row = row or "fof"
    if row not in ROWS:
        raise ValueError(
            f"configs/comparison.py: argument {arg!r} does not exist. Expected a data "
            f"set ({', '.join(DATA)}), a row ({', '.join(ROWS)}), or both as in "
            "phantom-distill.pkt."
        )
    if form not in FORMS:
        raise ValueError(
            f"configs/comparison.py: form {form!r} does not exist. Expected one of "
            f"{', '.join(FORMS)}, as in distill.crd,as_published."
        )
    if row not in FORMS[form]:
        raise ValueError(
            f"configs/comparison.py: row {row!r} has no other form than the common "
            "one. Leave out ,as_published; gbmlgg.py and gbmlgg_release.py are the "
            f"paper's own. Rows with one: {', '.join(FORMS[form])}."
        )
    return data, row, form


def _on_data(data: str, argument: str) -> ConfigDict:
    if data == "phantom":
        return phantom.get_config("-".join(filter(None, ("tables", argument))))
    if data == "cohort":
        return cohort.get_config(argument)
    if argument == "release":
        return gbmlgg_release.get_config()
    return gbmlgg.get_config(argument)
