"""The action `graphs` of `data`: builds the cell graphs of a store, and draws some."""

import argparse
from pathlib import Path

from ml_collections import ConfigDict

from fof_jax.data.graphs import build, folder, sheet, sources
from fof_jax.data.graphs.folder import GraphFolder
from fof_jax.data.prepare import prepare
from fof_jax.data.progress import Out, progress_to


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --processes, --pt, --labels and --sheet."""
    group = parser.add_argument_group("graphs")
    group.add_argument(
        "--processes",
        type=int,
        default=1,
        help="that build graphs (default: %(default)s)",
    )
    group.add_argument(
        "--pt",
        type=Path,
        metavar="FOLDER",
        help="read the .pt graphs of Pathomic Fusion; PyTorch is not needed",
    )
    group.add_argument(
        "--labels",
        type=Path,
        metavar="FOLDER",
        help="label maps of a segmenter (StarDist, Cellpose, QuPath): PNG, TIFF, NPY",
    )
    group.add_argument(
        "--sheet",
        type=Path,
        metavar="PNG",
        help="draws nuclei and edges over six regions",
    )


def run(flags: argparse.Namespace, config: ConfigDict, out: Out) -> int:
    """Builds the graphs, prints a summary, and draws the sheet."""
    store = prepare(config, out=out)
    if store.bags is not None:
        raise ValueError(
            f"data graphs: the store '{config.data.name}' holds patch features, "
            "expected images. Build a store of images."
        )
    source = sources.find(
        store, pt=flags.pt, labels=flags.labels, mpp=config.pathgcn.mpp
    )
    tokens = None
    if config.pathgcn.tokens:
        # Imported here: only this needs JAX.
        from fof_jax.training import graph_tokens

        tokens = graph_tokens.load(config, config.pathgcn.tokens)
    graphs = build.build(
        store,
        source,
        processes=flags.processes,
        add_columns=tokens,
        about_columns=None if tokens is None else tokens.about,
        progress=progress_to("graphs:", out, what="regions"),
        log=lambda line: print(line, file=out, flush=True),
    )
    print(summary(graphs), file=out)
    print(f"graphs: {graphs.path}", file=out)
    if flags.sheet is not None:
        sheet.write(store, graphs, source, flags.sheet)
        print(f"sheet: {flags.sheet}", file=out)
    return 0


def summary(graphs: GraphFolder) -> str:
    """Numbers of nuclei, and the regions with few of them, in one line."""
    few = int((graphs.nodes < folder.FEW_NUCLEI).sum())
    none = int((graphs.nodes == 0).sum())
    nodes = sorted(graphs.nodes.tolist())
    return (
        f"{len(nodes)} graphs of {nodes[0]} to {nodes[-1]} nuclei, median "
        f"{nodes[len(nodes) // 2]}, {len(graphs.columns)} columns; "
        f"{100 * graphs.few:.1f}% ({few}) have fewer than {folder.FEW_NUCLEI} nuclei"
        + (f", {none} none" if none else "")
    )
