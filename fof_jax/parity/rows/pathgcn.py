"""Replays recordings of PathGCN: one forward and backward pass, then optimizer steps.

The recordings store a batch as one graph without padding. Here each graph is padded,
and every recorded array is compared at the positions of its nodes.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fof_jax.data.graphs import padding, record
from fof_jax.models import graph, pathgcn
from fof_jax.parity import comparison
from fof_jax.parity.comparison import Row
from fof_jax.parity.rows import named_tensors

Recording = Mapping[str, np.ndarray]

# Largest difference, relative to what the comment names. Proposed by the recordings'
# description for a float32 program.
TOLERANCES = {
    "forward": 2e-5,  # arrays of step 0 and of evaluation: the array's maximum
    "loss": 1e-5,  # losses of all steps: the recorded value
    "gradient": 1e-5,  # the tensor's maximum, or 1e-3 of the largest gradient of all
    "parameter": 5e-5,  # absolute
    "kept": 0.0,  # nodes and edges that differ
}
NORMALIZED_COLUMNS = 12
CONSTANTS = ("output_range", "output_shift")


def recognizes(z: Recording) -> bool:
    """Whether a recording is of PathGCN."""
    return "cfg/nhid" in z and "init/conv1.weight" in z


def parameters_of(z: Recording, prefix: str) -> pathgcn.Params:
    """The network's parameters from tensors by published name."""
    params: pathgcn.Params = {}
    for layer in range(1, pathgcn.LAYERS + 1):
        pool = f"{prefix}pool{layer}.gnn."
        params[f"conv{layer}"] = {
            "kernel": jnp.asarray(z[f"{prefix}conv{layer}.weight"]),
            "bias": jnp.asarray(z[f"{prefix}conv{layer}.bias"]),
        }
        params[f"pool{layer}"] = {
            "kernel": jnp.asarray(z[f"{pool}weight"]),
            "root_kernel": jnp.asarray(z[f"{pool}lin.weight"].T),
            "root_bias": jnp.asarray(z[f"{pool}lin.bias"]),
        }
        params[f"lin{layer}"] = {
            "kernel": jnp.asarray(z[f"{prefix}lin{layer}.weight"].T),
            "bias": jnp.asarray(z[f"{prefix}lin{layer}.bias"]),
        }
    return params


def published_names(params: pathgcn.Params) -> dict[str, np.ndarray]:
    """The reverse of `parameters_of`."""
    named = {}
    for name, layer in params.items():
        if name.startswith("pool"):
            named[f"{name}.gnn.weight"] = layer["kernel"]
            named[f"{name}.gnn.lin.weight"] = layer["root_kernel"].T
            named[f"{name}.gnn.lin.bias"] = layer["root_bias"]
        else:
            kernel = layer["kernel"]
            named[f"{name}.weight"] = kernel if name.startswith("conv") else kernel.T
            named[f"{name}.bias"] = layer["bias"]
    return {name: np.asarray(value) for name, value in named.items()}


def split(z: Recording, prefix: str) -> list[record.CellGraph]:
    """The graphs of one recorded batch."""
    x, edges, member = (z[f"{prefix}{k}"] for k in ("x", "edge_index", "batch"))
    graphs = []
    for b in range(len(z[f"{prefix}grade"])):
        nodes = np.flatnonzero(member == b)
        mine = edges[:, member[edges[0]] == b] - nodes[0]
        names = tuple(f"column_{i}" for i in range(x.shape[1]))
        graphs.append(record.create(x[nodes], mine, np.zeros((len(nodes), 2)), names))
    return graphs


def inputs(graphs: padding.PaddedGraphs) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Node features divided as published (P2), edges and mask: the network's inputs."""
    x, edge_index, node_mask = map(jnp.asarray, graphs)
    x = graph.divide_by_maximum(x, node_mask, columns=NORMALIZED_COLUMNS, over="batch")
    return x, edge_index, node_mask


def network(z: Recording) -> pathgcn.PathGCN:
    """The network of a recording's sizes."""
    return pathgcn.PathGCN(
        features=int(z["cfg/features"]),
        num_classes=len(z["init/lin3.bias"]),
        width=int(z["cfg/nhid"]),
        feature_width=int(z["cfg/grph_dim"]),
        ratio=float(z["cfg/ratio"]),
        dropout=0.0,
    )


def replay(z: Recording) -> list[Row]:
    """Compares every recorded quantity with ours.

    Args:
      z: a recording, by name; every size is read from it.

    Returns:
      One row per quantity.

    Source: methods/clat_pathgcn.md, PathGCN and Tolerances.
    """
    net = network(z)
    params = parameters_of(z, "init/")
    optimizer = optax.chain(
        optax.add_decayed_weights(float(z["cfg/weight_decay"])),
        optax.adam(float(z["cfg/lr"]), b1=0.9, b2=0.999, eps=1e-8),
    )

    def loss(params, graphs, grade):
        out = net.apply(params, *graphs)
        losses = optax.softmax_cross_entropy_with_integer_labels(out["logits"], grade)
        return losses.mean(), out

    @jax.jit
    def step(params, state, graphs, grade):
        (value, out), gradient = jax.value_and_grad(loss, has_aux=True)(
            params, graphs, grade
        )
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, out, gradient

    state = optimizer.init(params)
    steps, batches = int(z["cfg/steps"]), int(z["cfg/nbatch"])
    rows, losses = [], []
    for t in range(steps):
        prefix = f"batch{t % batches}/"
        graphs = inputs(padding.pad(split(z, prefix), bucket=16))
        params, state, value, out, gradient = step(
            params, state, graphs, jnp.asarray(z[f"{prefix}grade"])
        )
        losses.append(float(value))
        if t == 0:
            rows += _first_step(z, graphs[0], out)
            rows.append(
                named_tensors.gradients(
                    z,
                    "t0/grad/",
                    published_names(gradient),
                    quantity="step 0 gradients",
                    tolerance=TOLERANCES["gradient"],
                )
            )
        if f"after{t + 1}/lin1.bias" in z:
            rows += _parameters(z, published_names(params), t + 1)
    rows.append(
        comparison.worst(
            [
                _row("loss", ours, theirs, "loss", where=f"step {t}")
                for t, (ours, theirs) in enumerate(
                    zip(losses, z["steps/loss"], strict=True)
                )
            ],
            "all steps loss",
        )
    )
    return rows + _evaluation(z, net, params)


def _row(name: str, ours: Any, theirs: Any, kind: str, **options: Any) -> Row:
    return comparison.row(name, ours, theirs, TOLERANCES[kind], kind=kind, **options)


def _first_step(z: Recording, x: jax.Array, out: dict[str, jax.Array]) -> list[Row]:
    """Every intermediate result of step 0, at the positions of the recorded nodes."""
    member = z["batch0/batch"]
    first = np.searchsorted(member, np.arange(len(x)))
    # Recorded nodes by graph and by position in the padded graph.
    b, i = member, np.arange(len(member)) - first[member]
    rows = [_intermediate(z, "x_normalised", x[b, i])]
    for layer in range(1, pathgcn.LAYERS + 1):
        score = jnp.tanh(out[f"score_raw{layer}"])
        for name, ours in (
            (f"sage{layer}", out[f"sage{layer}"]),
            (f"score_raw{layer}", out[f"score_raw{layer}"]),
            (f"score{layer}", score),
        ):
            rows.append(_intermediate(z, name, ours[b, i]))
        perm = z[f"t0/pool{layer}/perm"]
        theirs = np.zeros(len(b), bool)
        theirs[perm] = True
        keep = np.asarray(out[f"keep{layer}"])
        name = f"step 0 kept{layer}"
        rows.append(_row(name, keep[b, i], theirs, "kept", scale=1.0))
        b, i = b[perm], i[perm]
        edges = z[f"t0/pool{layer}/edge_index"]
        counts = np.zeros(out[f"counts{layer}"].shape)
        np.add.at(counts, (b[edges[0]], i[edges[1]], i[edges[0]]), 1)
        name = f"step 0 edges{layer}"
        rows.append(_row(name, out[f"counts{layer}"], counts, "kept", scale=1.0))
        rows.append(_intermediate(z, f"pool{layer}/x", out[f"pool{layer}"][b, i]))
        rows.append(_intermediate(z, f"readout{layer}", out[f"readout{layer}"]))
    out = out | {"log_softmax": jax.nn.log_softmax(out["logits"])}
    names = ("readout_sum", "lin1", "feature", "logits", "log_softmax")
    return rows + [_intermediate(z, name, out[name]) for name in names]


def _intermediate(z: Recording, name: str, ours: Any) -> Row:
    return _row(
        f"step 0 {name}", *named_tensors.recorded(z, f"t0/{name}", ours), "forward"
    )


def _parameters(z: Recording, ours: dict[str, np.ndarray], steps: int) -> list[Row]:
    prefix = f"after{steps}/"
    constants = [
        _row("", np.float32(value), z[f"{prefix}{name}"][0], "parameter", scale=1.0)
        for name, value in zip(CONSTANTS, (6, -3), strict=True)
    ]
    return [
        named_tensors.parameters(
            z,
            prefix,
            ours,
            quantity=f"parameters after {steps}",
            tolerance=TOLERANCES["parameter"],
            summed_rates=steps * float(z["cfg/lr"]),
        ),
        comparison.worst(constants, f"constants after {steps}"),
    ]


def _evaluation(z: Recording, net: pathgcn.PathGCN, params: Any) -> list[Row]:
    """Batch 0 with the final parameters, together and one graph at a time (P2)."""
    graphs = split(z, "batch0/")

    @jax.jit
    def forward(x, edge_index, node_mask):
        out = net.apply(params, x, edge_index, node_mask)
        return jax.nn.log_softmax(out["logits"])

    def log_softmax(graphs, bucket):
        return forward(*inputs(padding.pad(graphs, bucket=bucket)))

    nodes = max(len(g.x) for g in graphs)  # one shape for all
    together = log_softmax(graphs, nodes)
    alone = np.concatenate([log_softmax([g], nodes) for g in graphs])
    theirs = z["eval/one_at_a_time_log_softmax"]
    runs = np.isfinite(theirs).all(1)  # the published code stops without edges
    return [
        _row("eval batch", together, z["eval/batch0_log_softmax"], "forward"),
        _row("eval one graph at a time", alone[runs], theirs[runs], "forward"),
    ]
