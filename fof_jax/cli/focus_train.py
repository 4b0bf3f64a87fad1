"""The part of `focus` with --train: trains the marked model of a pair.

Its control is the run that --checkpoint names: the same config, splits and images,
without the mark.
"""

import argparse
import json
import sys
from pathlib import Path

from ml_collections import ConfigDict

from fof_jax import files
from fof_jax.cli import config as config_flag

JOB = "confounder.json"


def train(flags: argparse.Namespace, model, out: Path) -> tuple[Path, Path]:
    """Trains the folds of a model on a copy of their store with a mark on one class.

    A second call into the same folder resumes.

    Args:
      flags: --mark, --mark_class, --mark_fraction and --data_dir.
      model: of `load`, from --checkpoint.
      out: for the images (clean/, marked/), the store (data/) and the run (run/).

    Returns:
      The folder of the run, and the table of the images without the mark.

    Raises:
      ValueError: the checkpoint is not of a run of this version on images; the folder
        holds another mark's pair; or as of training.
    """
    from fof_jax.data import marks, prepare, store, store_export
    from fof_jax.inference.focus_cases import fold_number
    from fof_jax.inference.load import find_upward
    from fof_jax.report.fold_model import reporting_missing_fields
    from fof_jax.training import build, crossval
    from fof_jax.training import workdir as run_folder

    splits = find_upward(Path(model.fold_names[0]), run_folder.SPLITS_FILE)
    if splits is None or not (splits.parent / "config.json").is_file():
        raise ValueError(
            "focus: --train requires the run of --checkpoint, with its config.json and "
            "splits.json. Pass a run or a fold inside its run."
        )
    config = ConfigDict(_with_tuples(model.config.to_dict()))
    config_flag.add_optional_fields(config)
    with reporting_missing_fields():
        build.validate(config)
    data = store.open_store(
        flags.data_dir or config.data.dir,
        config.data.name,
        build=run_folder.recorded_build(splits.parent),
    )
    _require_same_job(flags, data, splits, out)
    clean, marked, workdir = (out / name for name in ("clean", "marked", "run"))
    if not (clean / store_export.TABLE).exists():
        store_export.write_images(data, clean)
    if not (marked / store_export.TABLE).exists():
        count = marks.plant(
            clean / store_export.TABLE,
            _read(clean, data),
            marked,
            kind=flags.mark,
            grade=model.classes.index(flags.mark_class),
            fraction=flags.mark_fraction,
        )
        print(f"{flags.mark} on {count} of {len(data)} images: {marked}")
    config.data.name, config.data.dir = "marked", str(out / "data")
    config.data.table, config.data.raw_dir = str(marked / store_export.TABLE), None
    prepare.write_store(config, _read(marked, data), "", sys.stderr)
    if not (workdir / run_folder.SPLITS_FILE).exists():
        files.write_bytes(workdir / run_folder.SPLITS_FILE, splits.read_bytes())
    for name in model.fold_names:
        config.fold = fold_number(name)
        ready = prepare.prepare(config, out=sys.stderr)
        crossval.run(config, ready, workdir)
    return workdir, clean / store_export.TABLE


def _with_tuples(value):
    """Config values from JSON, which has lists for the tuples of a config file."""
    if isinstance(value, dict):
        return {name: _with_tuples(one) for name, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _read(folder: Path, data):
    """The cohort below a folder, with the columns of the store that it is made of."""
    from fof_jax.data.cohort import read_cohort
    from fof_jax.data.store_export import TABLE

    return read_cohort(
        folder / TABLE,
        classes=data.classes,
        biomarkers=data.biomarkers,
        float_markers=data.float_markers,
        omics=data.omic_names,
        biomarkers_per="region",
    )


def _require_same_job(flags: argparse.Namespace, data, splits: Path, out: Path) -> None:
    """Raises if a folder holds the pair of another run or mark."""
    job = {
        "control": str(splits.parent.resolve()),
        "data": data.folder.name,
        "mark": flags.mark,
        "class": flags.mark_class,
        "fraction": flags.mark_fraction,
    }
    path = out / JOB
    if not path.exists():
        files.write_text(path, json.dumps(job, indent=2) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before != job:
        differ = ", ".join(
            f"{name} {before.get(name)!r}, now {job[name]!r}"
            for name in job
            if before.get(name) != job[name]
        )
        raise ValueError(
            f"focus: {out} holds the pair of another command ({differ}). Pass another "
            "--out."
        )
