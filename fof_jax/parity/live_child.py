"""Runs a checkout of the authors' code and records every step; see `live`.

A standalone script: its interpreter needs torch, transformers 4.46 and grad-cam, but
not this package. The files of the checkout are not changed: at run time `.cuda()` is
replaced by the identity, imports that training does not use by stubs, and hooks record
intermediate results.

    python live_child.py CHECKOUT INPUT.npz OUTPUT.npz
"""

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import types
from typing import Any

import numpy as np

# In the folder of this script, which runs without the package.
from live_recorder import Recorder, arrays

# Imported by the authors' modules, but not used in a training step.
UNUSED = ("wandb", "torchvision", "albumentations", "ttach", "imblearn")
REQUIRED = ("torch", "transformers", "pytorch_grad_cam", "yaml", "sklearn", "pandas")


class _Stub(types.ModuleType):
    """A module in which every attribute exists."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook that returns stubs for the named packages."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def prepare() -> None:
    """Checks that required packages are installed, and stubs the unused ones.

    Raises:
      SystemExit: a package is missing; the message names it.
    """
    # grad-cam resizes the maps with cv2, which therefore cannot be a stub.
    missing = [n for n in (*REQUIRED, "cv2") if importlib.util.find_spec(n) is None]
    if missing:
        names = {"pytorch_grad_cam": "grad-cam", "cv2": "opencv-python-headless"}
        install = " ".join(names.get(n, n) for n in missing)
        sys.exit(f"missing packages: {', '.join(missing)}. pip install {install}")
    # Before the stubs, because transformers checks for torchvision on import.
    importlib.import_module("transformers.modeling_utils")
    sys.meta_path.insert(0, _Stubs(UNUSED))


def run(checkout: str, z: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Trains `cfg/steps` steps with the checkout's training loop and records them."""
    import torch

    sys.path.insert(0, checkout)
    os.chdir(checkout)
    torch.Tensor.cuda = lambda self, *a, **k: self  # type: ignore[assignment]
    torch.nn.Module.cuda = lambda self, *a, **k: self  # type: ignore[assignment]
    from transformers.optimization import get_cosine_schedule_with_warmup

    loop = importlib.import_module("utils.train_validate")
    cfg = {k[4:]: a.item() for k, a in z.items() if k.startswith("cfg/")}
    genes = [str(n) for n in range(z["batch0/dis_gene"].shape[1])]
    out, recorder = dict(z), Recorder(cfg)
    _wrap_maps(recorder, loop)
    parts = _initialized(z, cfg, genes)
    model, average, local = parts.values()
    _record_forwards(recorder)
    trained = _wrapped(local)
    optimizer = torch.optim.AdamW(
        [{"params": model.parameters()}, {"params": trained.parameters()}],
        lr=cfg["lr"],
        weight_decay=0.01,
    )
    scheduler = get_cosine_schedule_with_warmup(optimizer, cfg["warmup"], cfg["total"])
    _record_steps(recorder, optimizer, parts, out)
    args = argparse.Namespace(
        batch_size=z["batch0/grade"].shape[0],
        world_size=1,
        temperature=0.07,
        dis_gene=genes,
        epochs=1,
        threshold=0.5,
        lambda_neg=1.0,
        lambda_region=0.2,
        lambda_float_gene=5,
        lambda_dis_gene=0.2,
        ema_decay=0.999,
        rank=1,  # rank 0 would validate and save
        fold=0,
    )
    loader = _Loader(z, cfg, recorder, parts, out)
    loop.train(
        (loader, None), (model, average, trained), optimizer, scheduler, args, None
    )
    out.update({f"after{cfg['steps']}/{k}": a for k, a in _named(parts).items()})
    return out | arrays(recorder)


def _wrap_maps(recorder: Recorder, loop: Any) -> None:
    """Records the functions of the class activation map."""
    cfg = recorder.cfg
    helper: Any = importlib.import_module("utils.cam_helper")
    side = cfg["image"] // cfg["patch"]
    # The authors' function has the constant 64.
    helper.reshape_transform_vit_huggingface = lambda a: a.reshape(
        a.shape[0], side, side, a.shape[2]
    ).permute(0, 3, 1, 2)
    recorder.wrap(helper, "get_2d_projection")
    recorder.wrap(helper, "scale_cam_image")
    recorder.wrap(helper.MyGradCAM, "get_cam_weights")
    recorder.wrap(loop, "cam2mask")


def _initialized(
    z: dict[str, np.ndarray], cfg: dict[str, Any], genes: list[str]
) -> dict[str, Any]:
    """The authors' model and both sets of heads, with the recorded weights."""
    import torch

    encoder: Any = importlib.import_module("models.encoder")
    projector = importlib.import_module("models.projector")
    config = encoder.ViTConfig
    encoder.ViTConfig = lambda: config(
        hidden_size=cfg["hidden"],
        num_hidden_layers=cfg["layers"],
        num_attention_heads=cfg["heads"],
        intermediate_size=cfg["mlp"],
        layer_norm_eps=cfg["layer_norm_eps"],
    )
    model = encoder.Transformer(
        image_size=cfg["image"],
        num_classes=cfg["num_classes"],
        patch_size=cfg["patch"],
    )
    average = projector.ContrastiveProjectors(cfg["hidden"], genes, teacher=True)
    local = projector.ContrastiveProjectors(cfg["hidden"], genes, teacher=False)
    parts = {"model": model, "global_projectors": average, "local_projectors": local}
    for name, part in parts.items():
        start = f"init/{name}."
        state = {k[len(start) :]: a for k, a in z.items() if k.startswith(start)}
        part.load_state_dict({k: torch.from_numpy(a) for k, a in state.items()})
    return parts


def _wrapped(module: Any) -> Any:
    """A module with `.module`, which the authors' loop reads of the heads (item 35)."""
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, x: Any) -> Any:
            return self.module(x)

    return Wrapped()


def _named(parts: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights of all parts by name."""
    return {
        f"{name}.{key}": tensor.detach().numpy().copy()
        for name, part in parts.items()
        for key, tensor in part.state_dict().items()
    }


def _record_forwards(recorder: Recorder) -> None:
    """Records outputs of modules, and the values that `backward` starts from."""
    import torch

    hooked = {"Transformer", "ContrastiveProjectors", "CrossEntropyLoss"}
    hooked |= {"GeneGuidance", "MultiHeadContrastiveLoss", "RegionContrastiveLoss"}

    def hook(module: Any, arguments: Any, result: Any) -> None:
        name = type(module).__name__
        if name in hooked:
            recorder.add(name, result)

    torch.nn.modules.module.register_module_forward_hook(hook)
    backward = torch.Tensor.backward

    def recorded_backward(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.steps[-1]["backward"].append(float(self.detach()))
        return backward(self, *args, **kwargs)

    torch.Tensor.backward = recorded_backward  # type: ignore[method-assign]


class _Loader:
    """Yields the recorded batches in order, and stores the weights after step 0."""

    sampler = None

    def __init__(
        self,
        z: dict[str, np.ndarray],
        cfg: dict[str, Any],
        recorder: Recorder,
        parts: dict[str, Any],
        out: dict[str, np.ndarray],
    ):
        self.z, self.cfg, self.recorder = z, cfg, recorder
        self.parts, self.out = parts, out

    def __len__(self) -> int:
        return self.cfg["steps"]

    def __iter__(self) -> Any:
        import torch

        for step in range(self.cfg["steps"]):
            if step == 1:
                after = _named(self.parts)
                self.out.update({f"after1/{k}": a for k, a in after.items()})
            prefix = f"batch{step % self.cfg['nbatch']}/"
            names = ("view1", "view2", "dis_gene", "float_gene", "grade")
            self.recorder.start_step()
            yield [torch.from_numpy(self.z[prefix + name]) for name in names]


def _record_steps(
    recorder: Recorder,
    optimizer: Any,
    parts: dict[str, Any],
    out: dict[str, np.ndarray],
) -> None:
    """Records the learning rate of each step and the gradients of the first."""
    original_step = optimizer.step

    def recorded_step(*args: Any, **kwargs: Any) -> Any:
        recorder.add("lr", optimizer.param_groups[0]["lr"])
        if len(recorder.steps) == 1:
            for name, part in parts.items():
                for key, tensor in part.named_parameters():
                    if tensor.grad is not None:
                        out[f"t0/grad/{name}.{key}"] = tensor.grad.numpy().copy()
        return original_step(*args, **kwargs)

    optimizer.step = recorded_step


def main() -> None:
    """Reads the inputs, runs the checkout, writes the recording."""
    checkout, source, target = sys.argv[1:]
    source, target = os.path.abspath(source), os.path.abspath(target)
    prepare()
    with np.load(source, allow_pickle=False) as z:
        recording = run(os.path.abspath(checkout), dict(z))
    np.savez(target, **recording)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
