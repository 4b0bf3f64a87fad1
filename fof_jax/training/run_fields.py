"""Fields of a run's config, and names of its files; does not use JAX.

Which fields may change on one workdir, and which later versions added.
"""

from typing import Any

# Fields that may change between two runs on one workdir: they do not alter numbers.
FREE_FIELDS = (
    "attention",
    "cpu_devices",
    "data_biomarkers_per",
    "data_cache",
    "data_columns_fold",
    "data_columns_grade",
    "data_columns_image",
    "data_columns_mask",
    "data_columns_patient",
    "data_dir",
    "data_patch_size",
    "data_raw_dir",
    "data_splits_file",
    "data_table",
    "data_threads",
    "data_ungraded",
    "data_words",
    "data_workers",
    "debug_nans",
    "devices",
    "eval_batch_size",
    "eval_every",
    "fold",
    "log_every",
    "log_pictures",
    "paper_row",
    "pathgcn_mpp",
    "pathgcn_tokens",
    "remat",
    "save_every",
    "save_minutes",
    "steps_per_call",
    "teacher_dir",
    "trackers",
    "unroll",
)
# Files of a fold with validation rows: which step is its model, and the predictions
# of that model on these rows.
BEST_FILE, VALIDATION_FILE = "best.json", "validation.csv"
TRACKERS = ("wandb", "mlflow")  # beside TensorBoard; names of packages and extras
VALIDATION_METRICS = ("loss", "accuracy", "auc")
# Fields of validation, with the values that switch it off.
VALIDATION_FIELDS: dict[str, Any] = {
    "early_stopping": 0,
    "validation": 0.0,
    "validation_every": 1,
    "validation_metric": "loss",
}
# Fields that a config file may lack, with the values that it then has.
OPTIONAL_FIELDS: dict[str, Any] = {
    **VALIDATION_FIELDS,
    "log_pictures": 0,
    "steps_per_call": 1,
    "trackers": "",
    "unroll": 1,
}
# Fields that not every version has, with the value that their absence means.
ABSENT_FIELDS: dict[str, Any] = {
    "bags_standardize": False,
    "data_max_tokens": None,
    "data_omics": [],
    "data_seed": None,
    "optimizer_constant_epochs": 0,
    "optimizer_frozen": "",
    "optimizer_frozen_epochs": 0,
    "optimizer_l1": 0.0,
    "optimizer_l1_of": "",
    "optimizer_name": "adamw",
    "optimizer_schedule": "cosine",
    "pathgcn_bucket": 256,
    "pathgcn_columns": 12,
    "pathgcn_dropout": 0.25,
    "pathgcn_features": 32,
    "pathgcn_normalization": "fold",
    "pathgcn_ratio": 0.2,
    "pathgcn_width": 128,
    "stages": [],
    **VALIDATION_FIELDS,
    "views_keep_share": 0.0,
    "views_stop_gradient": False,
    "views_warmup_epochs": 0.0,
}
