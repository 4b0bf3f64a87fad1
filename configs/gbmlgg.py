"""Focus on Focus on TCGA GBM-LGG, as in the paper.

    python launch.py data build --config=configs/gbmlgg.py
    python launch.py --config=configs/gbmlgg.py

Arguments, after a colon: `wo_frl` and `wo_mca` are the ablation rows of Table I,
`baseline` is its ViT-Tiny. The data must be downloaded first; the first command says
what and where to.

Hardware of the paper: four GTX 1080 Ti, a batch of 4. Expected (its Table I, five
folds): AUC 94.17 ± 0.68, AP 89.98 ± 1.35, accuracy 79.98 ± 2.17, kappa 69.05 ± 2.24.
Those folds split regions; here they split patients (`data.scheme`). This config has not
been run on the TCGA images.

Fields marked [n] change results: they are fixed for a workdir.
"""

from ml_collections import ConfigDict, config_dict

ARGUMENTS = ("", "wo_frl", "wo_mca", "baseline")


def get_config(arg: str = "") -> ConfigDict:
    """The paper's configuration, or a row of its ablation."""
    if arg not in ARGUMENTS:
        raise ValueError(
            f"configs/gbmlgg.py: argument {arg!r} does not exist. Expected one of "
            f"{', '.join(ARGUMENTS[1:])}, or none."
        )
    config = ConfigDict()

    # [n] Name in fof_jax/methods/registry.py: "fof" is the paper, "vit" its baseline.
    config.method = "vit" if arg == "baseline" else "fof"
    # [n] Training stages of a fold, e.g. ("teacher", "student"): fields of
    # config.teacher override the config in that stage. () for a single stage.
    config.stages = ()
    # Folder where runs share teachers, e.g. runs/teachers: a teacher that another run
    # with this folder has trained is not trained again (fof_jax/training/teachers.py).
    # Unset: each run has its own, in fold_K/teacher.
    config.teacher_dir = config_dict.placeholder(str)
    # Row of Table I printed next to the results; None for none.
    config.paper_row = {
        "": "FoF",
        "wo_frl": "FoF w/o FRL",
        "wo_mca": "FoF w/o MCA",
        "baseline": "Baseline",
    }[arg]

    # [n] Seed of initialization, data order, augmentation and splits. Not in the paper.
    config.seed = 42
    # [n] Sec. IV-A: "trained for 70 epochs".
    config.epochs = 70
    # [n] Global batch. Sec. IV-A: "with a batch size of 4".
    config.batch_size = 4
    # [n] Sec. IV-A: "5-fold cross-validation".
    config.folds = 5
    # Runs a single fold, 0 … folds - 1; unset runs all.
    config.fold = config_dict.placeholder(int)
    # Number of local devices; unset uses as many as divide the batch.
    config.devices = config_dict.placeholder(int)
    # Number of virtual CPU devices without an accelerator. One is fastest for large
    # images (matrix products use all cores), one per core for small ones.
    config.cpu_devices = 1
    # Steps between checkpoints; the last step is always saved.
    config.save_every = 500
    # Maximum minutes between checkpoints; 0 for save_every only.
    config.save_minutes = 10.0
    # Epochs between evaluations of the test fold, for the curves only; 0 evaluates at
    # the end. Without validation, results are those of the last epoch, as in the paper.
    config.eval_every = 0
    # [n] Fraction of each fold's training patients that are kept for validation, which
    # selects the step that is the fold's model; 0: the last, as in the paper.
    config.validation = 0.0
    config.validation_every = 1  # [n] epochs between validations
    config.validation_metric = "loss"  # [n] loss, accuracy or auc (micro, per region)
    # [n] Training ends after so many epochs without a better validation; 0: never.
    config.early_stopping = 0
    # Optimizer steps in one call, with data.cache=device (docs/performance.md).
    config.steps_per_call = 1
    # Steps between lines in metrics.jsonl.
    config.log_every = 10
    # Trackers beside TensorBoard: wandb,mlflow or one of them (docs/quickstart.md).
    config.trackers = ""
    # Number of images whose map A is tracked as pictures at each evaluation.
    config.log_pictures = 0
    config.eval_batch_size = 8  # of evaluation and prediction

    # [n] Sec. IV-A: ViT-Tiny; patch 16 as in the authors' code (docs/parity.md, 38).
    # Other variants: docs/pretrained.md.
    config.encoder = "Ti/16"
    # [n] P7: v is the mean of the patch tokens; class_token uses that token, and needs
    # init.class_token=keep.
    config.pooling = "patches"
    # [n] P10. Other pretrained weights may require another value.
    config.layer_norm_eps = 1e-6
    # [n] float32, bfloat16, or auto: bfloat16 on GPU and TPU, float32 on CPU.
    # Parameters, softmax, LayerNorm statistics and losses are float32 in each.
    config.compute_dtype = "float32"
    # Attention: auto, chunked, cudnn, pallas or naive (fof_jax/models/attention.py).
    config.attention = "auto"
    # Rematerialization policy of a block (fof_jax/models/vit.py): none, attention,
    # output (a third less memory than attention, docs/performance.md) or block.
    config.remat = "output"
    config.unroll = 1  # blocks of the ViT in one iteration of their loop

    # [n] Sec. III-B: "theta … set at 0.5".
    config.theta = 0.5
    # [n] Sec. IV-A: "The temperature parameter tau is set as 0.07".
    config.tau = 0.07
    # [n] Sec. IV-A: "Both the loss weights lambda_1 and lambda_2 are set as 0.2".
    config.lambda_frl = 0.2
    config.lambda_mca = 0.0 if arg == "wo_mca" else 0.2
    # [n] Weights of the cross-entropy of x_pos and x_neg. Eq. (3) has none: 1.
    config.lambda_pos = 1.0
    config.lambda_neg = 1.0
    # [n] False removes masks, masked views and L_FRL: the row "w/o FRL".
    config.frl = arg != "wo_frl"
    config.cam = ConfigDict()
    # [n] P1: tokens after the penultimate block.
    config.cam.block = -2
    # [n] P3: scale of A, minmax per image, or max: only divided by its maximum.
    config.cam.scale = "minmax"
    # [n] Target class of A in training: grade, the true one (Sec. III-B), or predicted
    # from x_glb, which is not in the paper (docs/results.md).
    config.cam.target = "grade"
    config.views = ConfigDict()
    # [n] P4: fill of masked patches: zero, mean (color of the image), or token (a
    # learned embedding); or drop: they leave the sequence, and both views are one
    # sequence of all patches, a pass of the encoder less per step. Not in the paper.
    config.views.fill = "zero"
    # [n] Epochs in which the masked views' weight grows from 0 to 1. Not in the paper.
    config.views.warmup_epochs = 0.0
    config.mca = ConfigDict()
    # [n] P9: Eq. (5) sums over positives; True divides by their number.
    config.mca.normalize_positives = False

    # Sec. IV-A: AdamW, beta 0.9 and 0.999, weight decay 0.01, 1e-4 with cosine decay.
    config.optimizer = ConfigDict()
    # [n] adamw, or adam_l2: Adam with the penalty in the gradient.
    config.optimizer.name = "adamw"
    # [n] cosine, per step; linear_epochs: constant for constant_epochs, then linear.
    config.optimizer.schedule = "cosine"
    config.optimizer.constant_epochs = 0  # [n]
    config.optimizer.learning_rate = 1e-4  # [n]
    config.optimizer.beta1 = 0.9  # [n]
    config.optimizer.beta2 = 0.999  # [n]
    config.optimizer.eps = 1e-8  # [n] PyTorch's default
    config.optimizer.weight_decay = 0.01  # [n]
    config.optimizer.warmup_epochs = 0  # [n] none in the paper
    # [n] Not in the paper, off: weight of an L1 penalty on the parameters below one key
    # ("" for all), with adam_l2.
    config.optimizer.l1 = 0.0
    config.optimizer.l1_of = ""
    # [n] Not in the paper, off: a key whose parameters are frozen in the first epochs,
    # with adam_l2.
    config.optimizer.frozen = ""
    config.optimizer.frozen_epochs = 0
    # [n] Not in the paper, off: the learning rate of block l of L is multiplied by
    # layer_decay^(L - l) and that of the heads by head_factor; embeddings and the
    # first freeze_blocks blocks are frozen.
    config.optimizer.layer_decay = 1.0
    config.optimizer.freeze_blocks = 0
    config.optimizer.head_factor = 1.0

    config.data = ConfigDict()
    # [n] Dataset: gbmlgg, cohort or phantom.
    config.data.name = "gbmlgg"
    # Folder of the stores.
    config.data.dir = "data"
    # Folder of Pathomic Fusion's distribution; unset is data.dir/gbmlgg.
    config.data.raw_dir = config_dict.placeholder(str)
    # [n] molecular: the 664 patients with biomarkers (1,325 regions, Sec. IV-A);
    # graded: the 736 with a grade, some with unknown biomarkers.
    config.data.subset = "molecular"
    # [n] Seed of the splits, and of the phantom's regions, where it is not that of the
    # run: several seeds then train and test on the same folds. Unset: `seed`.
    config.data.seed = config_dict.placeholder(int)
    # [n] Sec. IV-A: 1,024 x 1,024.
    config.data.image_size = 1024
    # [n] False: grayscale, standardized per image.
    config.data.color = True
    # [n] WHO grades, in order.
    config.data.classes = ("II", "III", "IV")
    # [n] Sec. III-C: IDH, 1p/19q, and CNV of PTEN, EGFR, CARD11, FGFR2.
    config.data.biomarkers = ("idh", "codeletion", "PTEN", "EGFR", "CARD11", "FGFR2")
    # patient: the images of a patient have the same biomarkers, others are an error;
    # region: each image of a `cohort` table has its own.
    config.data.biomarkers_per = "patient"
    # [n] Float columns; the paper uses none.
    config.data.float_markers = ()
    # [n] Columns of the molecular features, for methods that read omics. () uses those
    # of the store (gbmlgg: 80 columns), or none.
    config.data.omics = ()
    # [n] patient splits by patient; roi is the authors' KFold over regions
    # (docs/parity.md, 46); fold follows the table's column; pnas15 the 15
    # randomizations of pnas_splits.csv; pickle a split pickle
    # (fof_jax/data/external_splits.py). The last two define the number of folds.
    config.data.scheme = "patient"
    # File of pnas15 and pickle; unset is pnas_splits.csv in raw_dir.
    config.data.splits_file = config_dict.placeholder(str)
    # Handling of images smaller than image_size: resize, pad or error. [n]
    config.data.small = "resize"
    # [n] How images are brought to image_size x image_size in training and testing:
    # resize, or crop a square without scaling, at random in training, the center in
    # testing.
    config.data.train_view = "resize"
    config.data.test_view = "resize"
    # [n] Stain normalization: none (the TCGA regions are already normalized), or
    # macenko.
    config.data.stain = "none"
    # [n] True samples the classes equally often in training. Not in the paper.
    config.data.balanced = False
    # [n] True weights the cross-entropy inversely to the class frequencies in the
    # training fold. Not in the paper.
    config.data.class_weights = False
    # Cache of decoded images: ram; device, in the memory of each device, where batches
    # are gathered; or none, to decode them every time.
    config.data.cache = "ram"
    # Grain worker processes, and decoding threads: one for each core where unset.
    # Neither changes the data.
    config.data.workers = 0
    config.data.threads = config_dict.placeholder(int)

    config.augment = ConfigDict()
    # [n] Augmentation, on the device. paper is P11, the four of Sec. IV-A: cropping,
    # color jittering, flipping, distortion; release is the authors' code
    # (docs/parity.md, 43-45); off is none.
    config.augment.preset = "paper"
    # [n] Options; unset uses the preset (fof_jax/data/augment/options.py). After each
    # field: its values in the presets paper and release.
    config.augment.crop_area = config_dict.placeholder(
        tuple
    )  # fraction of the area; (0.7, 1), whole
    config.augment.crop_aspect = config_dict.placeholder(tuple)  # (0.9, 1.1), whole
    config.augment.flip_horizontal = config_dict.placeholder(float)  # 0.5, 0.5
    config.augment.flip_vertical = config_dict.placeholder(float)  # 0.5, 0.5
    config.augment.elastic = config_dict.placeholder(float)  # of the side; 0.02, 0
    config.augment.elastic_cells = config_dict.placeholder(int)  # of its grid; 4
    config.augment.rotate90 = config_dict.placeholder(float)  # probability; 0, 0.5
    config.augment.affine = config_dict.placeholder(float)  # probability; 0, 0.5
    config.augment.distort = config_dict.placeholder(float)  # probability; 0, 0.5
    config.augment.shuffle = config_dict.placeholder(float)  # of tiles; 0, 0.5
    config.augment.jitter = config_dict.placeholder(float)  # of the four next; 1, 0.5
    config.augment.brightness = config_dict.placeholder(float)  # 1 ± this; 0.2, 0.2
    config.augment.contrast = config_dict.placeholder(float)  # 1 ± this; 0.2, 0.2
    config.augment.saturation = config_dict.placeholder(float)  # 1 ± this; 0.2, 0.2
    config.augment.hue = config_dict.placeholder(float)  # of a circle; 0.02, 0.5
    config.augment.rgb_shift = config_dict.placeholder(float)  # probability; 0, 0.5
    config.augment.channel_shuffle = config_dict.placeholder(float)  # 0, 0.5
    config.augment.brightness_contrast = config_dict.placeholder(float)  # 0, 0.5
    config.augment.stain = config_dict.placeholder(float)  # density 1 ± this; 0, 0

    # Of the method pathgcn and of `data graphs` (docs/graphs.md); other methods read
    # none of it.
    config.pathgcn = ConfigDict()
    # Micrometers per pixel of the stored images, from which graphs are built: nuclei
    # are sought at 0.5. TCGA's regions: 20x.
    config.pathgcn.mpp = 0.5
    # Folder of encoder weights, of `import` or a fold of a run: `data graphs` adds each
    # nucleus's patch token as columns. Unset: the 12 columns alone. Not published.
    config.pathgcn.tokens = config_dict.placeholder(str)
    # [n] Columns of the graphs: 12 of contour and texture, and those of the tokens;
    # 1036 in the distribution's .pt files.
    config.pathgcn.columns = 12
    # [n] Widths of the graph layers and of the feature: the published network's.
    config.pathgcn.width = 128
    config.pathgcn.features = 32
    # [n] Fraction of nodes that each of three poolings keeps. Published: 0.2.
    config.pathgcn.ratio = 0.2
    # [n] Published: 0.25.
    config.pathgcn.dropout = 0.25
    # [n] Of the columns: fold (mean and deviation of the training nodes), graph (its
    # maximum), or batch (its maximum, as published: predictions depend on the batch).
    config.pathgcn.normalization = "fold"
    # [n] Graphs of a batch are padded to a multiple of so many nodes; each new size is
    # compiled once.
    config.pathgcn.bucket = 256

    config.init = ConfigDict()
    # [n] Folder of pretrained weights: from `import`, or a fold of a run; None trains
    # from scratch. The authors' code starts from WinKawaks' ViT-Tiny of ImageNet
    # (docs/parity.md, 38); a run without it says how to get it.
    config.init.checkpoint = config_dict.placeholder(str)
    config.init.checkpoint = "weights/vit-tiny-patch16-224"
    # [n] drop: P7 and the authors' code. keep: used in attention, not part of P.
    config.init.class_token = "drop"
    # [n] Position embedding of another grid: interpolate (bicubic or bilinear), or
    # redraw, a new initialization as in the authors' code (docs/parity.md, 38).
    config.init.pos_embed = "interpolate"
    config.init.pos_resize = "bicubic"

    config.debug = ConfigDict()
    # Stops at the first operation that produces a NaN; slow.
    config.debug.nans = False
    return config
