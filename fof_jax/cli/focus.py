"""Score a model's maps, and rules without a model, against masks of the structures.

python launch.py focus --checkpoint=runs/phantom
python launch.py focus --checkpoint=runs/phantom --table=T.csv --out=scores
python launch.py focus --checkpoint=runs/phantom --explainers=eq1,blind --limit=100

`--table` is a cohort's CSV with the columns image, patient, grade and mask; without it
the test images of the run's own data are taken. A fold is scored on images that it has
not been trained on. `--explainers` is a list of names or of the groups all, main (Eq.
(1) at its own block only), model and blind. Output: scores.csv, one row per image, fold
and explainer, and summary.csv with 95% intervals by patient.
"""

import argparse
import sys
from pathlib import Path

from fof_jax.data.progress import progress_to


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, --table, --explainers, --limit, --no_curves and --out."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="PATH")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="a cohort's CSV with masks"
    )
    parser.add_argument(
        "--explainers", default="all", metavar="NAMES", help="default: all"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="at most N images, even over the grades"
    )
    parser.add_argument(
        "--no_curves",
        action="store_true",
        help="no deletion and insertion, which take most of the time",
    )
    parser.add_argument(
        "--data_dir",
        metavar="DIR",
        help="folder of the run's store; default: data.dir of the run",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: CHECKPOINT/focus"
    )


def run(flags: argparse.Namespace) -> int:
    """Measures, writes the files and prints the table."""
    out = flags.out or flags.checkpoint / "focus"
    from fof_jax.cli import predict
    from fof_jax.evaluation import focus_table
    from fof_jax.evaluation.focus_text import format_focus
    from fof_jax.explainers import registry
    from fof_jax.inference import focus, load
    from fof_jax.inference.model import has_map, no_map_reason

    predict.check_out(out)
    model = load.load(flags.checkpoint)
    if not has_map(model):
        raise ValueError(
            f"focus: the model has no map: {no_map_reason(model)}. Pass a run of fof, "
            "vit or release."
        )
    words = [word.strip() for word in flags.explainers.split(",") if word.strip()]
    depth = model.method.vit_classifier(next(iter(model.folds.values()))).depth
    explainers = registry.choose(words, depth, int(model.config.cam.block))
    rows = focus.measure(
        model,
        _cases(flags, model),
        explainers,
        curves=not flags.no_curves,
        log=lambda line: print(line, file=sys.stderr),
        report_progress=progress_to("scored", sys.stderr),
    )
    summaries = focus_table.summarize(rows)
    out.mkdir(parents=True, exist_ok=True)
    focus_table.write(out / focus_table.FILE_NAME, rows)
    focus_table.write_summary(out / focus_table.SUMMARY_NAME, summaries)
    print(format_focus(summaries))
    print(f"scores: {out}")
    return 0


def _cases(flags: argparse.Namespace, model):
    from fof_jax.data import prepare
    from fof_jax.data.cohort import read_cohort
    from fof_jax.inference import focus_cases

    if flags.table is not None:
        cohort = read_cohort(flags.table, classes=model.classes, biomarkers=())
        return focus_cases.of_table(model, cohort, limit=flags.limit)
    if flags.data_dir is not None:
        model.config.data.dir = flags.data_dir
    data = prepare.prepare(model.config, out=sys.stderr, generate=False)
    return focus_cases.of_store(model, data, limit=flags.limit)
