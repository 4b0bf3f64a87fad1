"""Records calls of the authors' functions and converts them to a recording.

Part of the script `live_child`; imports NumPy only.
"""

from typing import Any

import numpy as np


class Recorder:
    """Records arguments and results of wrapped functions, per step."""

    def __init__(self, cfg: dict[str, Any]):
        self.cfg = cfg
        self.steps: list[dict[str, Any]] = []

    def start_step(self) -> None:
        """Starts a new step."""
        self.steps.append({"calls": {}, "backward": []})

    def add(self, name: str, value: Any) -> None:
        """Appends a value to the calls of a name in the current step."""
        if self.steps:
            self.steps[-1]["calls"].setdefault(name, []).append(value)

    def wrap(self, module: Any, name: str) -> None:
        """Replaces a function by one that records its arguments and result."""
        function = getattr(module, name)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.add(name, (args, result))
            return result

        setattr(module, name, recorded)


def arrays(recorder: Recorder) -> dict[str, np.ndarray]:
    """Converts the recorded steps to the arrays of a recording."""
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
            name: float(calls[module][0].detach())
            for name, module in (
                ("region", "RegionContrastiveLoss"),
                ("dis_gene", "MultiHeadContrastiveLoss"),
                ("float_gene", "GeneGuidance"),
            )
        }
        values = {
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
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
        if number == 0:
            out |= _first_step(calls, values)
    return out | {f"steps/{name}": np.stack(v) for name, v in columns.items()}


def _first_step(
    calls: dict[str, list[Any]], values: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Intermediate results of step 0."""
    arguments, alpha = calls["get_cam_weights"][0]
    activations, gradients = arguments[-2:]
    out = {
        "cam/activations": activations,
        "cam/gradients": gradients,
        "cam/alpha": alpha,
        "cam/weighted_sum": (alpha[:, :, None, None] * activations).sum(axis=1),
        "cam/projection": values["cam_projection"],
        "cam/v1": values["cam_v1"],
        "cam/scaled_first": np.asarray(calls["scale_cam_image"][0][1]),
        "cam/scaled_final": np.asarray(calls["scale_cam_image"][1][1]),
        "cam/pooled": values["cam_pooled"],
        "mask": values["mask"],
    }
    # The first forward pass is that of the class activation map.
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
