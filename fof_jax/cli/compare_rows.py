"""Rows of a comparison: their configs, and why some of them cannot be trained."""

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from fof_jax.cli import config as config_flag
from fof_jax.data import metadata, prepare, splits
from fof_jax.data.progress import Out
from fof_jax.data.store import Store
from fof_jax.evaluation import published
from fof_jax.methods import registry
from fof_jax.training import cell_graphs, cells, omics
from fof_jax.training import workdir as run_folder

# Fields of a row's budget, which the conditions name where rows differ in them.
BUDGET = (
    "encoder",
    "data.image_size",
    "epochs",
    "batch_size",
    "optimizer.name",
    "optimizer.learning_rate",
    "optimizer.schedule",
    "augment.preset",
    "init.checkpoint",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the config file.

    Attributes:
      name: in its table of rows.
      words: --config arguments that give its config, without seed and fold.
      config: resolved; None if it has none on this data set.
      table: "I" if it reads the image alone at test, "II" if more, "" if unknown.
      at_test: what it reads at test.
      reason: why it cannot be trained; "" if it can.
    """

    name: str
    words: tuple[str, ...]
    config: ConfigDict | None
    table: str
    at_test: tuple[str, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a comparison trains.

    Attributes:
      rows: of the config file, in its order.
      store: the data of all of them.
      seed: of the config.
      data_seed: seed of the folds, and of the phantom.
      folds: the folds of the data.
    """

    rows: tuple[Row, ...]
    store: Store
    seed: int
    data_seed: int
    folds: splits.Splits


def make_plan(words: Sequence[str], out: Out) -> Plan:
    """Resolves the config of every row, and opens or builds the data.

    Args:
      words: --config arguments; the argument of the file is a data set or none, and
        may end with a comma and a form, which the rows that have it take.
      out: stream for progress of the data.

    Raises:
      ValueError: the file has no rows, its argument is a row, or no row can be
        trained on the data.
    """
    base = next((w for w in words if w.startswith("--config=")), None)
    if base is None:
        config_flag.load(words)  # raises, with the remedy
        raise AssertionError
    tables = _tables_of(config_flag.resolve(base))
    argument = base.partition("=")[2].partition(":")[2]
    argument, _, form = argument.partition(",")
    if argument and argument not in tables.data:
        raise ValueError(
            f"compare: the argument {argument!r} of {tables.path.name} is no data set; "
            f"expected one of {', '.join(tables.data)}, or none. Rows go to --rows."
        )
    if form and form not in tables.forms:
        raise ValueError(
            f"compare: the form {form!r} of {tables.path.name} does not exist; "
            f"expected one of {', '.join(tables.forms)}, or none."
        )
    others = [w for w in words if w != base]
    stores: dict[str, Store] = {}
    made: list[Row] = []
    first: tuple[Store, ConfigDict] | None = None
    for name in tables.rows:
        fixed = tuple(f"--config.{field}=" for field in tables.fixed.get(name, ()))
        own = (
            f"--config={tables.path}:{tables.argument(argument, name, form)}",
            *(word for word in others if not word.startswith(fixed)),
        )
        row, store = _row(name, own, stores, first and first[0], out)
        made.append(row)
        if store is not None and row.config is not None and first is None:
            first = store, row.config
    if first is None:
        rows_of: dict[str, list[str]] = {}
        for row in made:
            rows_of.setdefault(row.reason, []).append(row.name)
        reasons = "\n".join(f"  {', '.join(r)}: {why}" for why, r in rows_of.items())
        raise ValueError(f"compare: no row can be trained on this data:\n{reasons}")
    store, config = first
    seed = prepare.data_seed(config)
    folds = splits.make_splits(
        store, scheme=config.data.scheme, folds=config.folds, seed=seed
    )
    return Plan(tuple(made), store, config.seed, seed, folds)


def cell_words(
    row: Row, plan: Plan, folder: cells.Folder, seed: int, fold: int | None = None
) -> list[str]:
    """--config arguments of a cell, or of all folds of a row and seed.

    Rows with a teacher share those of the comparison, unless the user has chosen a
    folder.
    """
    ours = ("--config.seed=", "--config.data.seed=", "--config.fold=")
    words = [word for word in row.words if not word.startswith(ours)]
    words += [f"--config.seed={seed}", f"--config.data.seed={plan.data_seed}"]
    if fold is not None:
        words.append(f"--config.fold={fold}")
    config = row.config
    if config is not None and config.stages and config.get("teacher_dir", "") is None:
        words.append(f"--config.teacher_dir={folder.teachers}")
    return words


def refused(row: Row, plan: Plan, folder: cells.Folder, seed: int) -> str:
    """Why existing cells of a row and seed are not of this comparison; "" if they are.

    They were begun with another configuration, or on other data.
    """
    workdir = folder.workdir(row.name, seed)
    if not (workdir / "config.json").exists():
        return ""
    config = config_flag.load(cell_words(row, plan, folder, seed))
    try:
        run_folder.require_same_run(config, plan.store, workdir)
    except ValueError as error:
        return str(error)
    return ""


def conditions(plan: Plan, seeds: Sequence[int]) -> list[str]:
    """Lines on data, folds and budget; rows with another budget are named."""
    configs = {r.name: r.config for r in plan.rows if r.config is not None}
    config = next(iter(configs.values()))
    patients = len(set(plan.store.patients))
    start = config.init.checkpoint or "random weights"
    lines = [
        f"data {config.data.name}: {len(plan.store)} regions of {patients} patients, "
        f"{config.data.image_size} pixels; data hash {plan.store.folder.name[:12]}",
        f"{config.data.scheme} split in {len(plan.folds.folds)} folds, seed "
        f"{plan.data_seed}; runs with seed {', '.join(map(str, seeds))}; the last "
        "epoch is tested",
        f"every row from {start}: encoder {config.encoder}, {config.epochs} epochs, "
        f"batch {config.batch_size}, {config.optimizer.name} at "
        f"{config.optimizer.learning_rate:g} ({config.optimizer.schedule})",
    ]
    for name, other in configs.items():
        differing = [
            f"{field} {_field(other, field)}"
            for field in BUDGET
            if _field(other, field) != _field(config, field)
        ]
        if differing:
            lines.append(f"{name} differs: {', '.join(differing)}")
    return lines


def _field(config: ConfigDict, name: str) -> object:
    """A field by its dotted name; None if the config does not have it."""
    value: object = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, ConfigDict) else None
    return value


@dataclasses.dataclass(frozen=True)
class _Tables:
    """A config file and its tables.

    Attributes:
      path: of the file.
      data: names of data sets, `DATA`.
      rows: names of rows, `ROWS`.
      fixed: row -> fields that it keeps, `FIXED` or none.
      forms: form -> the rows that have it, `FORMS` or none.
    """

    path: Path
    data: tuple[str, ...]
    rows: tuple[str, ...]
    fixed: dict[str, tuple[str, ...]]
    forms: dict[str, tuple[str, ...]]

    def argument(self, data: str, row: str, form: str) -> str:
        """Argument of the file for a row."""
        words = f"{data}-{row}" if data else row
        return f"{words},{form}" if row in self.forms.get(form, ()) else words


def _tables_of(word: str) -> _Tables:
    """The tables of a config file."""
    path = Path(word.partition("=")[2].partition(":")[0])
    spec = importlib.util.spec_from_file_location("_compared_config", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"compare: {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data, rows = (tuple(getattr(module, name, ())) for name in ("DATA", "ROWS"))
    if not data or not rows:
        raise ValueError(
            f"compare: {path} has no tables DATA and ROWS. Pass "
            "--config=configs/comparison.py, or a file that has them, too."
        )
    fixed, forms = (getattr(module, name, {}) for name in ("FIXED", "FORMS"))
    return _Tables(path, data, rows, fixed, forms)


def _row(
    name: str,
    words: tuple[str, ...],
    stores: dict[str, Store],
    first: Store | None,
    out: Out,
) -> tuple[Row, Store | None]:
    """A row and its data, or the reason why it cannot be trained."""
    known = next((line.table for line in published.ROWS if line.config == name), "")
    try:
        config = config_flag.load(words)
        store = _open(config, stores, out)
        for stage in (*config.stages[:-1], ""):
            stage_config = registry.stage_config(config, stage) if stage else config
            method = registry.create(stage_config, metadata.dataset_info(store))
            omics.require_inputs(method.inputs, store, stage_config.method)
            cell_graphs.open_for(stage_config, method.inputs, store)
        if first is not None and store.folder != first.folder:
            raise ValueError(
                f"its data are others (hash {store.folder.name[:12]}) than those of "
                f"the first row ({first.folder.name[:12]})"
            )
    except ValueError as error:
        reason = " ".join(str(error).split())
        return Row(name, words, None, known, (), reason), None
    at_test = tuple(method.inputs.test)
    table = known or ("I" if at_test == ("image",) else "II")
    return Row(name, words, config, table, at_test, ""), store


def _open(config: ConfigDict, stores: dict[str, Store], out: Out) -> Store:
    """The store of a config; rows with the same data fields share it."""
    fields = [config.data.to_dict(), prepare.data_seed(config)]
    key = json.dumps(fields, sort_keys=True, default=str)
    if key not in stores:
        stores[key] = prepare.prepare(config, out=out)
    return stores[key]
