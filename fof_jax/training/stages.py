"""The stages of a fold: a teacher and the student that learns from it, or one."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from fof_jax.data import cache, metadata, store
from fof_jax.data.bags import padding
from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.methods import registry
from fof_jax.methods.base import Method
from fof_jax.training import (
    build,
    cell_graphs,
    fold_constants,
    multihost,
    omics,
    preemption,
    teachers,
    train,
    weights,
)
from fof_jax.training.fold import Fold, Rows, label
from fof_jax.types import Bag, Batch, Params


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training of a fold: the teacher of a student, or the only one.

    Attributes:
      name: key of its trained variables in `frozen` of later stages; "" for the last,
        whose files are those of the fold itself.
      config: of the stage.
      setup: what the folds of this stage share.
      graphs: those of the store, for a method that reads them.
    """

    name: str
    config: ConfigDict
    setup: build.Setup
    graphs: GraphFolder | None = None


def build_stages(config: ConfigDict, data: store.Store) -> list[Stage]:
    """The stages of a config, in the order in which they are trained.

    Fields of `config.<stage>` replace those of the config in that stage.

    Raises:
      ValueError: a stage without fields, or one that does not fit the data.
    """
    names = tuple(config.stages) or ("",)
    stages: list[Stage] = []
    for name in names:
        stage_config = registry.stage_config(config, name) if name else config
        setup = build.build(stage_config, metadata.dataset_info(data))
        omics.require_inputs(setup.method.inputs, data, stage_config.method)
        _require_same_kind(setup.method, data, stage_config.method)
        graphs = cell_graphs.open_for(stage_config, setup.method.inputs, data)
        if not stages:  # a later stage is initialized from the ones before it
            trace_init(
                setup.method,
                stage_config.data.image_size,
                len(data.omic_names),
                bags=None if data.bags is None else data.bags.width,
                columns=None if graphs is None else len(graphs.columns),
            )
        stages.append(
            Stage("" if name == names[-1] else name, stage_config, setup, graphs)
        )
    return stages


def _require_same_kind(method: Method, data: store.Store, name: str) -> None:
    """Raises where a method of images meets a store of bags, or the reverse."""
    reads_bags = "bag" in (*method.inputs.train, *method.inputs.test)
    if reads_bags == (data.bags is not None):
        return
    kinds = ("patch features (HDF5)", "images")
    needed, held = kinds if reads_bags else kinds[::-1]
    raise ValueError(
        f"method {name!r} reads {needed}, and the store {data.folder} holds {held}. "
        "Pass another --config.method, or a table of such files."
    )


def trace_init(
    method: Method,
    image_size: int,
    omics: int,
    *,
    bags: int | None = None,
    columns: int | None = None,
) -> None:
    """Traces the method's initialization without computing it.

    Args:
      image_size: side of the images.
      omics: number of omics columns.
      bags: D of a method that reads bags; None for one that reads images.
      columns: of the store's graphs, for a method that reads them.

    Raises:
      ValueError: the method or its encoder refuses its options.
    """
    vector = jax.ShapeDtypeStruct((1, omics), np.float32) if omics else None
    if bags is None:
        image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
        batch = Batch(image=image, second_view=image, omics=vector)
    else:
        tokens = (1, padding.SMALLEST)
        bag = Bag(
            features=jax.ShapeDtypeStruct((*tokens, bags), np.float32),
            coords=jax.ShapeDtypeStruct((*tokens, 2), np.float32),
            valid=jax.ShapeDtypeStruct(tokens, np.bool_),
        )
        batch = Batch(image=None, bag=bag, omics=vector)
    frozen: Params = {}
    if columns is not None:
        graph, frozen = cell_graphs.example(columns)
        batch = Batch(image=None, graph=graph)
    jax.eval_shape(method.init, jax.random.key(0), batch, frozen)


def train_stages(
    stages: Sequence[Stage],
    images: cache.Cache,
    rows: Rows,
    number: int,
    folder: Path,
    log: Callable[[str], None],
    stop: preemption.StopRequest,
) -> None:
    """Trains the stages of one fold in order; each sees those before it as constants.

    Args:
      rows: of the fold; statistics and weights use its training rows.
      number: of the fold.
      folder: of the fold; a stage but the last writes into a folder of its name in it,
        or where `teachers.place` shares it.
      stop: pending stop signal.

    Raises:
      ValueError: a teacher is not the one with which the student was begun.
    """
    frozen: Params = {}
    for stage in stages:
        constants = fold_constants.measure(
            stage.config,
            stage.setup.method.inputs,
            images.store,
            stage.graphs,
            rows.train,
            taught=bool(frozen),
        )
        last = stage is stages[-1]
        with contextlib.ExitStack() as held:
            place = teachers.Place(folder)
            if not last:
                place = teachers.place(
                    stage.name, stage.config, images.store, rows, number, folder
                )
                teachers.claim(place, held, log, stop)
            fold = Fold(
                config=stage.config,
                setup=stage.setup,
                cache=images,
                rows=rows,
                number=number,
                stage=stage.name,
                folder=place.folder,
                frozen=frozen | constants,
                log=log,
                graphs=stage.graphs,
            )
            if not multihost.broadcast((fold.folder / "predictions.csv").exists()):
                train.train_fold(fold, stop)
            elif place.shared:
                log(f"{label(fold)}: already trained, {place.folder}")
        if not last:
            trained = weights.read(place.folder)
            teachers.record(place, trained, folder, stage.name)
            frozen = frozen | {stage.name: trained}
