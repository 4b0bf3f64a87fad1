"""Tables I and II of the paper: rows in its order, figures, and our configs' names.

Mean and standard deviation over five folds on TCGA GBM-LGG, in percent: Pan et al.,
BIBM 2024. Source: the paper's tables; METHODS.md section 0 for their protocols.
"""

import dataclasses

Figures = tuple[tuple[float, float], ...]  # (mean, std) of AUC, AP, accuracy, kappa

# METHODS.md sections 0 and 2.
PROTOCOLS = (
    "The paper's figures mix two protocols. FoF, its ablations, Baseline and "
    "SwinV2-Tiny: a ViT-Tiny or SwinV2 on whole regions of 1,024 pixels; 1,458 regions "
    "of 736 patients in the authors' code; folds split regions, so that patients are "
    "in both training and test. The other rows, very probably as in the distillation "
    "literature: ResNet-18 on crops of 512 pixels; 1,325 regions of 664 patients; "
    "other folds; models selected on the test fold. Our rows have one protocol."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a published table.

    Attributes:
      label: as printed, without the number of the reference.
      config: row of configs/comparison.py.
      table: "I", image alone at test, or "II", image and omics.
      figures: mean and std of AUC, AP, accuracy and kappa, in percent.
    """

    label: str
    config: str
    table: str
    figures: Figures


def _row(label: str, config: str, table: str, *figures: tuple[float, float]) -> Row:
    return Row(label, config, table, figures)


_FOF = ((94.17, 0.68), (89.98, 1.35), (79.98, 2.17), (69.05, 2.24))
# fmt: off
ROWS = (
    _row("Baseline", "vit", "I",
         (90.37, 0.82), (83.05, 2.39), (74.36, 2.14), (61.16, 3.84)),
    _row("PathCNN", "image.resnet18", "I",
         (90.46, 1.01), (82.84, 2.07), (74.07, 1.81), (60.59, 3.05)),
    _row("PathGCN", "pathgcn", "I",
         (90.25, 1.53), (82.69, 2.11), (74.20, 1.49), (61.27, 2.92)),
    _row("SwinV2-Tiny", "image.swinv2", "I",
         (91.56, 1.74), (83.27, 1.26), (74.34, 1.56), (62.35, 2.46)),
    _row("KL div", "distill.kl", "I",
         (91.67, 0.43), (85.01, 0.95), (74.58, 1.15), (61.39, 2.17)),
    _row("PKT", "distill.pkt", "I",
         (91.52, 0.52), (84.67, 1.03), (74.77, 1.05), (61.71, 1.89)),
    _row("Feats KL", "distill.features_kl", "I",
         (91.70, 0.43), (85.06, 0.74), (74.82, 1.66), (61.76, 2.97)),
    _row("SP", "distill.sp", "I",
         (91.89, 0.45), (85.38, 0.54), (75.60, 1.12), (62.96, 1.96)),
    _row("RKD", "distill.rkd", "I",
         (91.67, 0.35), (85.03, 0.65), (74.97, 1.06), (62.00, 2.01)),
    _row("CRD", "distill.crd", "I",
         (91.86, 0.68), (85.33, 1.34), (75.71, 1.27), (63.16, 2.04)),
    _row("SCKD", "distill.sckd", "I",
         (91.31, 0.34), (84.44, 0.76), (73.91, 1.28), (60.42, 2.32)),
    _row("HKD", "distill.hkd", "I",
         (91.73, 0.32), (85.18, 0.59), (75.21, 0.85), (62.37, 1.49)),
    _row("CLAT", "distill.clat", "I",
         (92.42, 0.58), (86.34, 1.23), (76.47, 0.65), (64.34, 0.85)),
    _row("FoF w/o FRL", "wo_frl", "I",
         (93.20, 0.53), (88.44, 1.48), (76.89, 1.60), (64.31, 2.13)),
    _row("FoF w/o MCA", "wo_mca", "I",
         (93.64, 0.42), (88.26, 0.93), (76.55, 2.32), (63.85, 2.55)),
    _row("FoF", "fof", "I", *_FOF),
    _row("SCNN", "fusion.scnn", "II",
         (91.18, 0.85), (84.40, 1.83), (74.40, 2.09), (61.02, 1.34)),
    _row("Pathomic", "fusion.pathomic", "II",
         (92.30, 0.79), (85.80, 1.55), (75.74, 1.39), (63.15, 2.31)),
    _row("GPDBN", "fusion.gpdbn", "II",
         (92.01, 0.56), (85.42, 1.12), (75.98, 1.42), (63.02, 1.56)),
    _row("HFBSurv", "fusion.hfbsurv", "II",
         (91.61, 0.75), (84.79, 1.39), (74.67, 2.21), (61.84, 1.65)),
    _row("DDM-net", "fusion.ddmnet", "II",
         (92.53, 0.91), (85.22, 1.01), (76.92, 1.76), (64.07, 1.95)),
    _row("FOAA", "fusion.foaa", "II",
         (93.15, 0.76), (86.70, 1.14), (77.90, 2.41), (65.36, 2.38)),
    _row("DGKD", "distill.dgkd", "II",
         (93.43, 0.40), (87.75, 0.86), (78.08, 0.73), (66.73, 1.31)),
    _row("FoF", "fof", "II", *_FOF),
)
# fmt: on
FIGURES = {row.label: row.figures for row in ROWS}
REFERENCES = ("fof", "vit")  # rows to which the others are compared
# Names of the rows of configs/comparison.py that the paper does not have.
OTHERS = {
    "release": "authors' objective",
    "image.vgg19bn": "VGG19-BN",
    "omics": "omics alone",
    "fusion.concat": "concatenation",
    "distill.dgkd_student": "student of DGKD",
}


def label_of(config: str) -> str | None:
    """The paper's name of a row of configs/comparison.py; None if it has none."""
    return next((row.label for row in ROWS if row.config == config), None)


def name_of(config: str) -> str:
    """What tables call a row of configs/comparison.py, or a run of any other name."""
    return label_of(config) or OTHERS.get(config, config)


def cited(label: str) -> str:
    """A row's label with its table, e.g. "FoF (paper, Table I)"."""
    table = next(row.table for row in ROWS if row.label == label)
    return f"{label} (paper, Table {table})"
