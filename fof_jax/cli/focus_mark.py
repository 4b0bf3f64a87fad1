"""The part of `focus` with --mark: a planted confounder, and what maps show of it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fof_jax import files


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --mark, --mark_class, --mark_fraction, --classes, --control and --train."""
    planted = parser.add_argument_group("planted confounder")
    planted.add_argument(
        "--mark", metavar="KIND", help="dot, stamp, tint or line, on one class"
    )
    planted.add_argument("--mark_class", metavar="CLASS", help="class that carries it")
    planted.add_argument(
        "--mark_fraction",
        type=float,
        default=1.0,
        metavar="P",
        help="of the class's images that are marked; default 1",
    )
    planted.add_argument(
        "--classes",
        metavar="NAMES",
        help="classes of the table, separated by commas; without --checkpoint",
    )
    planted.add_argument(
        "--control",
        type=Path,
        metavar="PATH",
        help="the same run trained without the mark",
    )
    planted.add_argument(
        "--train",
        action="store_true",
        help="trains the marked model from the config and the data of --checkpoint, "
        "which becomes the control",
    )


def run(flags: argparse.Namespace) -> int:
    """Writes a marked cohort, or trains on one, or scores a model that was."""
    from fof_jax.data import marks
    from fof_jax.data.cohort import read_cohort

    marks.require(flags.mark, flags.mark_fraction)
    if flags.train:
        return _train_and_score(flags)
    if flags.table is None or flags.mark_class is None:
        raise ValueError(
            "focus: --mark requires --table=TABLE.csv, the cohort without marks, and "
            "--mark_class=CLASS, the class that carries it; or --train and a run as "
            "--checkpoint."
        )
    if flags.checkpoint is not None:
        paths = {"planted": flags.checkpoint}
        paths |= {"control": flags.control} if flags.control is not None else {}
        _score(flags, paths, flags.table, flags.out or flags.checkpoint / "focus")
        return 0
    if flags.out is None or not flags.classes:
        raise ValueError(
            "focus: --mark without --checkpoint writes a marked cohort and requires "
            "--out=FOLDER and --classes, the table's classes in order."
        )
    classes = tuple(name.strip() for name in flags.classes.split(","))
    grade = _class_index(classes, flags.mark_class)
    cohort = read_cohort(flags.table, classes=classes, biomarkers=())
    count = marks.plant(
        flags.table,
        cohort,
        flags.out,
        kind=flags.mark,
        grade=grade,
        fraction=flags.mark_fraction,
    )
    print(
        f"{flags.mark} on {count} of {len(cohort.rows)} images: {flags.out}/table.csv"
    )
    return 0


def _train_and_score(flags: argparse.Namespace) -> int:
    """Trains the marked model of a pair, and scores both."""
    if flags.checkpoint is None or flags.mark_class is None:
        raise ValueError(
            "focus: --train requires --checkpoint=RUN, the run without the mark, and "
            "--mark_class=CLASS, the class that will carry it."
        )
    if flags.table is not None or flags.control is not None:
        raise ValueError(
            "focus: --train takes the data of --checkpoint, which is the control. "
            "Leave out --table and --control."
        )
    from fof_jax.cli import focus_train
    from fof_jax.inference import load

    model = require_map(load.load(flags.checkpoint))
    _class_index(model.classes, flags.mark_class)
    explainers(flags, model)  # a wrong name fails before training
    out = flags.out or flags.checkpoint / "confounder"
    run, table = focus_train.train(flags, model, out)
    _score(flags, {"planted": run, "control": flags.checkpoint}, table, out)
    return 0


def _score(
    flags: argparse.Namespace, paths: dict[str, Path], table: Path, out: Path
) -> None:
    """Prints, and writes to confounder.txt, what the mark does to each model.

    The figures of every map against the mark are confounder_NAME.csv, one per model.
    """
    from fof_jax.data.cohort import read_cohort
    from fof_jax.evaluation import focus_table
    from fof_jax.inference import focus_cases, focus_confounder, load
    from fof_jax.inference.table_form import TableForm

    accuracy, rows, pairs = {}, {}, {}
    for name, path in paths.items():
        model = require_map(load.load(path))
        grade = _class_index(model.classes, flags.mark_class)
        form = TableForm.of(model.config).cohort_arguments(table)
        cohort = read_cohort(table, classes=model.classes, biomarkers=(), **form)
        clean, marked = focus_cases.with_mark(
            model, cohort, flags.mark, limit=flags.limit
        )
        pairs[name] = focus_confounder.image_folds(marked)
        focus_confounder.check_pair(pairs["planted"], pairs[name])
        accuracy[name] = focus_confounder.accuracy(model, clean, marked, grade)
        rows[name] = focus_confounder.on_mark(
            model,
            marked,
            explainers(flags, model),
            grade=grade,
            log=lambda line: print(line, file=sys.stderr),
        )
    control = rows.get("control")
    results = {
        name: (accuracy[name], focus_confounder.summarize(some, control))
        for name, some in rows.items()
    }
    text = focus_confounder.format_report(
        flags.mark, flags.mark_class, results["planted"], results.get("control")
    )
    out.mkdir(parents=True, exist_ok=True)
    for name, some in rows.items():
        focus_table.write(out / f"confounder_{name}.csv", some)
    files.write_text(out / "confounder.txt", text + "\n")
    print(text)


def _class_index(classes: Sequence[str], name: str) -> int:
    if name not in classes:
        raise ValueError(
            f"mark_class: got {name!r}, expected one of {', '.join(classes)}."
        )
    return list(classes).index(name)


def require_map(model):
    """The model; a ValueError if it has no class activation map."""
    from fof_jax.inference.model import has_map, no_map_reason

    if not has_map(model):
        raise ValueError(
            f"focus: the model has no map: {no_map_reason(model)}. Pass a run of fof, "
            "vit or release."
        )
    return model


def explainers(flags: argparse.Namespace, model):
    """The explainers that --explainers names."""
    from fof_jax.explainers import registry

    words = [word.strip() for word in flags.explainers.split(",") if word.strip()]
    depth = model.method.vit_classifier(next(iter(model.folds.values()))).depth
    return registry.choose(words, depth, int(model.config.cam.block))
