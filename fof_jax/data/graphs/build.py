"""Builds the cell graphs of a store: resumable, by several processes."""

import concurrent.futures
import functools
import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fof_jax import files
from fof_jax.data import images
from fof_jax.data.graphs import folder, record, sources
from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.data.graphs.sources import Source
from fof_jax.data.progress import Progress
from fof_jax.data.store import Store

STAGING = ".graphs-building"
_LOCK, _ORIGIN = ".graphs.lock", "origin.json"
# Region in RGB and its graph to the graph with further columns.
AddColumns = Callable[[Any, record.CellGraph], record.CellGraph]


def build(
    store: Store,
    source: Source,
    *,
    processes: int = 1,
    add_columns: AddColumns | None = None,
    about_columns: dict[str, Any] | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] = print,
) -> GraphFolder:
    """Builds the graphs of all regions of a store, unless they are there already.

    Each graph is written when it is made, so that the same call resumes after a kill.
    Graphs that were made in another way are replaced when the new ones are complete.

    Args:
      store: the regions.
      source: how they are made.
      processes: that segment and measure; 1 uses none but this one.
      add_columns: adds columns, in this process.
      about_columns: JSON values that identify `add_columns`.
      progress: called with (done, total) after each graph.
      log: prints a line.

    Raises:
      ValueError: fewer than one process, a region or file that cannot be used, or
        graphs with different columns.
    """
    if processes < 1:
        raise ValueError(
            f"data graphs: got --processes={processes}, expected 1 or more."
        )
    origin = source.origin() | {"tokens": about_columns}
    with files.file_lock(store.folder / _LOCK):
        if folder.exists(store):
            there = folder.open_folder(store)
            if there.origin == origin:
                log(f"the graphs exist already: {there.path}")
                return there
            log("the graphs there were made in another way and will be replaced")
        staging = _stage(store, origin)
        missing = [
            row
            for row in range(len(store))
            if not (staging / folder.file_name(row)).exists()
        ]
        if len(missing) < len(store):
            log(f"resumes: {len(store) - len(missing)} of {len(store)} graphs are done")
        graphs = _graphs(store, source, missing, processes)
        for done, (row, graph) in enumerate(zip(missing, graphs, strict=True), 1):
            if add_columns is not None:
                graph = add_columns(images.decode(store.encoded(row)), graph)
            files.write_bytes(staging / folder.file_name(row), record.encode(graph))
            if progress is not None:
                progress(len(store) - len(missing) + done, len(store))
        _complete(store, staging, origin)
    return folder.open_folder(store)


def _stage(store: Store, origin: dict[str, Any]) -> Path:
    """The staging folder, emptied if it was begun with another origin."""
    staging = store.folder / STAGING
    known = staging / _ORIGIN
    if staging.exists():
        try:
            same = json.loads(known.read_text(encoding="utf-8")) == origin
        except (OSError, ValueError):
            same = False
        if not same:
            shutil.rmtree(staging)
    staging.mkdir(exist_ok=True)
    for partial in staging.glob(".*.npz-*"):  # what a killed process was writing
        partial.unlink()
    files.write_text(known, json.dumps(origin))
    return staging


def _graphs(
    store: Store, source: Source, rows: Sequence[int], processes: int
) -> Iterator[record.CellGraph]:
    """Graphs of regions, in order."""
    make = functools.partial(_graph, store, source)
    if processes == 1 or len(rows) < 2:
        yield from map(make, rows)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy JAX's threads
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        try:
            yield from pool.map(make, rows, chunksize=2)
        finally:
            pool.shutdown(cancel_futures=True)


def _graph(store: Store, source: Source, row: int) -> record.CellGraph:
    return sources.graph_of(store, row, source)


def _complete(store: Store, staging: Path, origin: dict[str, Any]) -> None:
    """Writes the index and moves the folder to its place."""
    entries, columns = [], None
    for row in range(len(store)):
        data = (staging / folder.file_name(row)).read_bytes()
        graph = record.decode(data, staging / folder.file_name(row))
        if columns is None:
            columns = graph.names
        if graph.names != columns:
            raise ValueError(
                f"data graphs: {store.images[row]} has {len(graph.names)} columns, the "
                f"regions before it {len(columns)}, expected equal ones. Remove "
                f"{staging} and pass files of one kind."
            )
        entries.append(
            {
                "sha256": hashlib.sha256(data).hexdigest(),
                "nodes": len(graph.x),
                "edges": graph.edge_index.shape[1],
            }
        )
    folder.write_index(staging, columns or (), origin, entries)
    (staging / _ORIGIN).unlink()
    final = store.folder / folder.NAME
    if final.exists():
        shutil.rmtree(final)
    staging.rename(final)
