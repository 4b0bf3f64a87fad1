"""What passed through the authors' functions, in the layout of a recording.

Part of the script `live_child`: it may import NumPy alone.
"""

from typing import Any

import numpy as np


class Recorder:
    """Hooks around the authors' functions, and what they saw, step by step."""

    def __init__(self, cfg: dict[str, Any]):
        self.cfg = cfg
        self.steps: list[dict[str, Any]] = []

    def start(self) -> None:
        """A new step."""
        self.steps.append({"calls": {}, "backward": []})

    def keep(self, name: str, value: Any) -> None:
        """Appends to the step's calls of that name."""
        if self.steps:
            self.steps[-1]["calls"].setdefault(name, []).append(value)

    def wrap(self, module: Any, name: str) -> None:
        """Replaces a function by one that keeps its arguments and result."""
        function = getattr(module, name)

        def kept(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.keep(name, (args, result))
            return result

        setattr(module, name, kept)


def arrays(recorder: Recorder) -> dict[str, np.ndarray]:
    """The recorder's steps in the layout of a recording."""
    out: dict[str, np.ndarray] = {}
    columns: dict[str, list[Any]] = {}
    for number, step in enumerate(recorder.steps):
        calls = step["calls"]
        (weighted,), projection = calls["get_2d_projection"][0]
        b = projection.shape[0]
        rows = weighted.reshape(b, weighted.shape[1], -1).transpose(0, 2, 1)
        rows = rows - rows.mean(axis=1, keepdims=True)
        direction = np.einsum("bpd,bp->bd", rows, projection.reshape(b, -1))
        norm = np.linalg.norm(direction, axis=1, keepdims=True)
        direction = direction / np.where(norm > 0, norm, 1)
        (A, *_), mask = calls["cam2mask"][0]
        p = recorder.cfg["patch"]
        h = A.shape[1] // p
        pooled = A.detach().numpy().reshape(b, h, p, h, p).mean(axis=(2, 4))
        pooled = pooled.reshape(b, -1)
        cls = [float(v.detach()) for v in calls["CrossEntropyLoss"][:3]]
        loss = {
            name: float(calls[theirs][0].detach())
            for name, theirs in (
                ("region", "RegionContrastiveLoss"),
                ("dis_gene", "MultiHeadContrastiveLoss"),
                ("float_gene", "GeneGuidance"),
            )
        }
        found = {
            "loss_global_cls": cls[0],
            "loss_pos_cls": cls[1],
            "loss_neg_cls": cls[2],
            **{f"loss_{name}_raw": value for name, value in loss.items()},
            "cam_score_sum": step["backward"][0],
            "loss_total": step["backward"][-1],
            "lr_model": calls["lr"][0],
            "lr_local_projectors": calls["lr"][0],
            "mask": mask.numpy(),
            "cam_pooled": pooled,
            "cam_projection": projection,
            "cam_v1": direction.astype(np.float32),
        }
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
        if number == 0:
            out |= _first(calls, found)
    return out | {f"steps/{name}": np.stack(v) for name, v in columns.items()}


def _first(calls: dict[str, list[Any]], found: dict[str, Any]) -> dict[str, np.ndarray]:
    """Intermediates of step 0."""
    arguments, alpha = calls["get_cam_weights"][0]
    activations, gradients = arguments[-2:]
    out = {
        "cam/activations": activations,
        "cam/gradients": gradients,
        "cam/alpha": alpha,
        "cam/weighted_sum": (alpha[:, :, None, None] * activations).sum(axis=1),
        "cam/projection": found["cam_projection"],
        "cam/v1": found["cam_v1"],
        "cam/scaled_first": np.asarray(calls["scale_cam_image"][0][1]),
        "cam/scaled_final": np.asarray(calls["scale_cam_image"][1][1]),
        "cam/pooled": found["cam_pooled"],
        "mask": found["mask"],
    }
    # The first forward is the map's.
    for view, outputs in zip(
        ("cam", "glb", "pos", "neg"), calls["Transformer"], strict=True
    ):
        feature, logits_global, logits_local = (a.detach().numpy() for a in outputs)
        out[f"logits_global/{view}"] = logits_global
        out[f"logits_local/{view}"] = logits_local
        if view != "cam":
            out[f"features/{view}"] = feature
    for view, outputs in zip(
        ("glb", "pos", "neg"), calls["ContrastiveProjectors"], strict=True
    ):
        region, gene = (a.detach().numpy() for a in outputs)
        out[f"proj_region/{view}"], out[f"proj_gene/{view}"] = region, gene
    return {f"t0/{name}": np.asarray(a) for name, a in out.items()}
