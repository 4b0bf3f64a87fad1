"""Score a model's maps, and rules without a model, against masks of the structures.

python launch.py focus --checkpoint=runs/phantom
python launch.py focus --checkpoint=runs/phantom --table=T.csv --out=scores
python launch.py focus --checkpoint=runs/phantom --explainers=eq1,blind --limit=100
python launch.py focus --mark=dot --table=T.csv --mark_class=IV --classes=II,III,IV \\
    --out=marked
python launch.py focus --mark=dot --table=T.csv --mark_class=IV \\
    --checkpoint=runs/marked --control=runs/clean
python launch.py focus --mark=dot --mark_class=IV --mark_fraction=0.8 --train \\
    --checkpoint=runs/clean --out=pair

`--table` is a cohort's CSV with the columns image, patient, grade and mask; without it
the test images of the run's own data are taken. A fold is scored on images that it has
not been trained on. `--explainers` is a list of names or of the groups all, main (Eq.
(1) at its own block only), model and blind. Output: scores.csv, one row per image, fold
and explainer; summary.csv with 95% intervals by patient; alignment.csv of the run's
biomarkers; focus.png and focus.html.

A model of patch features (docs/bags.md) is scored against the deciding patches that the
files of its bags state: its own map beside a random one, scores.csv and summary.csv.

`--mark` plants a confounder: without --checkpoint it writes a cohort in which one class
carries a mark; with the run that was trained on it, it prints how far the accuracy
falls without the mark and what share of each map lies on it. A map that does not show
the planted cause fails. `--train` does both: it marks a copy of the data of
--checkpoint, trains its config on it, and compares the two runs.
"""

import argparse
import sys
from pathlib import Path

from fof_jax.cli import focus_mark
from fof_jax.data.progress import progress_to

PAGE = "focus.html"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, --table, --explainers, --limit, --no_curves and --out."""
    parser.add_argument("--checkpoint", type=Path, metavar="PATH")
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
    focus_mark.add_flags(parser)


def run(flags: argparse.Namespace) -> int:
    """Measures, prints the tables and writes the files."""
    if flags.mark is not None:
        return focus_mark.run(flags)
    if flags.checkpoint is None:
        raise ValueError("focus: --checkpoint=RUN is required, a run or a fold.")
    out = flags.out or flags.checkpoint / "focus"
    from fof_jax.cli import predict
    from fof_jax.inference import focus, focus_alignment, load
    from fof_jax.inference.model import reads_bags

    predict.check_out(out)
    model = load.load(flags.checkpoint)
    if reads_bags(model):
        return _bags(flags, model, out)
    model = focus_mark.require_map(model)
    explainers = focus_mark.explainers(flags, model)
    cases, data = _cases(flags, model)
    rows = focus.measure(
        model,
        cases,
        explainers,
        curves=not flags.no_curves,
        log=lambda line: print(line, file=sys.stderr),
        report_progress=progress_to("scored", sys.stderr, "maps"),
    )
    alignment = focus_alignment.of_store(model, data) if data is not None else []
    summaries = _write_scores(out, rows)
    if alignment:
        focus_alignment.write(out / focus_alignment.FILE_NAME, alignment)
        print("\n" + focus_alignment.format_rows(alignment))
    _write_page(flags, out, model, cases, explainers, summaries, alignment)
    print(f"\nscores: {out}\npage: {out / PAGE}")
    return 0


def _write_scores(out: Path, rows):
    """Writes scores.csv and summary.csv, prints the latter and returns it."""
    from fof_jax.evaluation import focus_table
    from fof_jax.evaluation.focus_text import format_focus

    summaries = focus_table.summarize(rows)
    out.mkdir(parents=True, exist_ok=True)
    focus_table.write(out / focus_table.FILE_NAME, rows)
    focus_table.write_summary(out / focus_table.SUMMARY_NAME, summaries)
    print(format_focus(summaries))
    return summaries


def _bags(flags: argparse.Namespace, model, out: Path) -> int:
    """Scores a model of bags; no curves and no page, which show images."""
    from fof_jax.data.cohort import read_cohort
    from fof_jax.inference import focus_bags
    from fof_jax.inference.table_form import TableForm

    words = [word.strip() for word in flags.explainers.split(",") if word.strip()]
    maps = focus_bags.choose(words, model)
    if flags.table is not None:
        table = read_cohort(
            flags.table,
            classes=model.classes,
            biomarkers=(),
            patch_size=model.config.data.get("patch_size"),
            **TableForm.of(model.config).cohort_arguments(flags.table),
        )
        index = table.bags
        images = [table.name_of(row) for row in table.rows]
        patients = [row.patient for row in table.rows]
        grades = [row.grade for row in table.rows]
    else:
        data = _store(flags, model)
        index, grades = data.bags, data.grades.tolist()
        images, patients = list(data.images), list(data.patients)
    if index is None:
        raise ValueError(
            "focus: the model reads patch features, and the table lists images. Pass a "
            "table of HDF5 files as --table."
        )
    cases = focus_bags.cases(model, index, images, patients, grades, limit=flags.limit)
    rows = focus_bags.measure(
        model, index, cases, maps, report_progress=progress_to("scored", sys.stderr)
    )
    _write_scores(out, rows)
    print(f"\nscores: {out}")
    return 0


def _cases(flags: argparse.Namespace, model):
    """Images with masks; and the run's own store, or None where a table is given."""
    from fof_jax.data.cohort import read_cohort
    from fof_jax.inference import focus_cases
    from fof_jax.inference.table_form import TableForm

    if flags.table is not None:
        form = TableForm.of(model.config).cohort_arguments(flags.table)
        cohort = read_cohort(flags.table, classes=model.classes, biomarkers=(), **form)
        return focus_cases.of_table(model, cohort, limit=flags.limit), None
    data = _store(flags, model)
    return focus_cases.of_store(model, data, limit=flags.limit), data


def _store(flags: argparse.Namespace, model):
    """The run's own store, also where it has been moved to --data_dir."""
    from fof_jax.data import prepare

    if flags.data_dir is not None:
        model.config.data.dir = flags.data_dir
    return prepare.prepare(model.config, out=sys.stderr, generate=False)


def _write_page(flags, out, model, cases, explainers, summaries, alignment) -> None:
    """Writes focus.html, and focus.png with one image of each grade."""
    from fof_jax.inference import focus, focus_alignment
    from fof_jax.report import focus_page
    from fof_jax.report.page import Section
    from fof_jax.report.tables import Table

    first = {case.grade: case for case in reversed(cases)}
    shown = [one for one in explainers if ":" not in one.name] or explainers
    examples = [
        (case, focus.example_maps(model, case, shown))
        for _, case in sorted(first.items())
    ]
    strips = focus_page.strips(examples, model.classes)
    focus_page.picture(out / focus_page.PICTURE, strips)
    more = []
    if alignment:
        header, *lines = focus_alignment.lines(alignment)
        caption = (
            "Test images, mean over folds. Silhouette by cosine distance of images of "
            "equal status, in the features v and in the biomarker's projection h(v): "
            "-1 to 1, above 0 where they lie together. Probe: balanced accuracy of a "
            "logistic regression from v, cross-validated by patient."
        )
        table = Table(caption, tuple(header), tuple(map(tuple, lines)))
        more.append(Section("alignment", "Biomarkers", tables=(table,)))
    images = len({(case.image, case.tile) for case in cases})
    data = flags.table or f"test images of the {model.config.data.name} of the run"
    intro = (
        f"Method {model.config.method}, encoder {model.config.encoder}, images of "
        f"{model.image_size} pixels, {len(model.folds)} folds; {images} images with "
        f"structures of {len({case.patient for case in cases})} patients: {data}."
    )
    focus_page.write(
        out / PAGE,
        summaries,
        title=f"Focus of {flags.checkpoint.resolve().name}",
        intro=intro,
        shown=strips,
        more=more,
    )
