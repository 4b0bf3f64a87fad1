"""Fields that the rows of comparison.py have in the form `as_published`.

Each row has the encoder, optimizer, schedule, batch, epochs, augmentation and quirks of
its public code, as far as a run on this project's folds can have them. The data set
keeps its images, folds and image size; the result is that of the last epoch. Sources:
methods/fusion.md and methods/distillation.md ("Recipes as published"), METHODS.md A2,
methods/clat_pathgcn.md ("Recipe as published").

What no field can give: weights of ImageNet have to be imported (`init.checkpoint`);
images are normalized as elsewhere in this project, not by 0.5; GPDBN and HFBSurv were
trained on precomputed features with the whole training set as one batch, here with 16
images; SCNN's exponential decay and moving average of weights are left out, its rate
being constant; FOAA and DDM-net published no training. Terms whose weight is not known
are weighted as in the form `common`.
"""

from typing import Any

Fields = dict[str, Any]


def _adam(
    rate: float,
    *,
    l2: float,
    batch: int,
    epochs: int,
    constant: int = 0,
    beta1: float = 0.9,
    l1: float = 0.0,
    l1_of: str = "",
) -> Fields:
    """Adam with L2 in the gradient and a rate that falls linearly by epoch."""
    return {
        "batch_size": batch,
        "epochs": epochs,
        "optimizer.name": "adam_l2",
        "optimizer.schedule": "linear_epochs",
        "optimizer.constant_epochs": constant,
        "optimizer.warmup_epochs": 0,
        "optimizer.learning_rate": rate,
        "optimizer.beta1": beta1,
        "optimizer.beta2": 0.999,
        "optimizer.eps": 1e-8,
        "optimizer.weight_decay": l2,
        "optimizer.l1": l1,
        "optimizer.l1_of": l1_of,
    }


# Random crop, flips and jitter of PathCNN, DGKD and the students; 512 of 1,024 pixels.
_AUGMENT: Fields = {
    "augment.crop_area": (1.0, 1.0),
    "augment.crop_aspect": (1.0, 1.0),
    "augment.flip_horizontal": 0.5,
    "augment.flip_vertical": 0.5,
    "augment.elastic": 0.0,
    "augment.jitter": 1.0,
    "augment.brightness": 0.1,
    "augment.contrast": 0.1,
    "augment.saturation": 0.05,
    "augment.hue": 0.01,
}
_RESNET: Fields = {"encoder": "resnet18", "init.checkpoint": None, **_AUGMENT}
# The recipe of DGKD's repository, which also trained the students of Table I.
_DGKD: Fields = {**_RESNET, **_adam(5e-4, l2=4e-4, batch=16, epochs=30)}
_OMICS_BRANCH: Fields = {"optimizer.l1": 3e-4, "optimizer.l1_of": "omics_network"}
_STUDENT: Fields = {
    **_DGKD,
    "dgkd.features": 128,
    "dgkd.dropout": 0.1,
    "dgkd.as_published": True,
    "distill.as_published": True,
}
_VGG = "weights/vgg19bn-imagenet"  # of an `import`; its trunk is frozen

_OMICS = _adam(2e-3, l2=5e-4, batch=64, epochs=50, l1=3e-4)
_VGG_PATH: Fields = {
    "encoder": "vgg19bn",
    "init.checkpoint": _VGG,
    **_AUGMENT,
    **_adam(5e-4, l2=4e-4, batch=8, epochs=50),
}

_PATHGCN = _adam(2e-3, l2=4e-4, batch=32, epochs=450)
PATHGCN_OPTIMIZER = {k: v for k, v in _PATHGCN.items() if k.startswith("optimizer.")}

FIELDS: dict[str, Fields] = {
    "image.resnet18": _DGKD,
    "image.vgg19bn": _VGG_PATH,
    # 50 published epochs over nine copies of each graph are 450 passes.
    "pathgcn": {**_PATHGCN, "pathgcn.normalization": "batch"},
    "omics": {**_OMICS, "omics.features": 32, "omics.dropout": 0.25},
    "fusion.concat": {
        **_DGKD,
        **_OMICS_BRANCH,
        "fusion.image_features": 128,
        "fusion.cut_gradient": True,
    },
    "fusion.scnn": {
        "encoder": "vgg19bn_unfrozen",
        "init.checkpoint": None,
        **_adam(1e-3, l2=0.0, batch=14, epochs=100, constant=100),
        "fusion.image_features": 128,
        "fusion.dropout": 0.05,
    },
    # Stages: the image encoder and the omics network alone, then the fusion.
    "fusion.pathomic": {
        "encoder": "vgg19bn",
        "init.checkpoint": _VGG,
        **_AUGMENT,
        **_adam(
            1e-4,
            l2=4e-4,
            batch=32,
            epochs=30,
            constant=10,
            beta1=0.5,
            l1=3e-4,
            l1_of="omics_network",
        ),
        "optimizer.frozen": "omics_network",
        "optimizer.frozen_epochs": 4,
        "fusion.form": "two_stage",
        "fusion.dropout": 0.25,
        "stages": ("image", "omics_network", "fusion_of_both"),
        "image": {
            "method": "pathcnn_vgg",
            **_VGG_PATH,
            "optimizer.frozen_epochs": 0,
        },
        "omics_network": {
            "method": "omics",
            "encoder": "vgg19bn_unfrozen",  # not read
            "init.checkpoint": None,
            **_OMICS,
            "optimizer.frozen_epochs": 0,
        },
        "fusion_of_both": {"init.checkpoint": None},
    },
    "fusion.gpdbn": {
        **_RESNET,
        **_adam(2e-4, l2=1e-6, batch=16, epochs=150, l1=3e-4),
        "fusion.image_features": 32,
        "fusion.dropout": 0.1,
    },
    "fusion.hfbsurv": {
        **_RESNET,
        **_adam(1.2e-4, l2=1e-6, batch=16, epochs=100, constant=100, l1=3e-3),
        "fusion.image_features": 128,
        "fusion.dropout": 0.3,
    },
    "fusion.ddmnet": {
        **_DGKD,
        "fusion.image_features": 128,
        "fusion.dropout": 0.25,
        "fusion.modality_dropout": 0.2,
    },
    "fusion.foaa": {
        "fusion.image_features": 64,
        "fusion.dropout": 0.01,
        "fusion.over_entries": False,
    },
    "distill.dgkd": {
        **_DGKD,
        "dgkd.features": 128,
        "dgkd.dropout": 0.1,
        "dgkd.as_published": True,
    },
    **dict.fromkeys(
        (
            "distill.kl",
            "distill.features_kl",
            "distill.pkt",
            "distill.sp",
            "distill.rkd",
            "distill.hkd",
            "distill.dgkd_student",
        ),
        _STUDENT,
    ),
    "distill.crd": {**_STUDENT, "distill.beta": 0.02, "distill.ramp_epochs": 30},
    "distill.sckd": {**_STUDENT, "distill.mask": "batch"},
    "distill.clat": {
        **_DGKD,
        "clat.features": 128,
        "clat.dropout": 0.1,
        "clat.masked_superpixels": 1,
        "clat.as_published": True,
    },
}
