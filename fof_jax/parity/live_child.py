"""Runs a checkout of the authors' code and records what it does; see `live`.

A script of its own: the interpreter that runs it needs torch, transformers 4.46 and
grad-cam, and not this package. Nothing of the checkout is changed on disk. From
outside, `.cuda()` becomes the identity, imports that training does not use become
stubs, and hooks write down what passes.

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

# Beside this script, which runs as one: no package is needed.
from live_recorder import Recorder, arrays

# Imported at the top of their files, but without effect on a training step.
UNUSED = ("wandb", "torchvision", "albumentations", "ttach", "imblearn")
NEEDED = ("torch", "transformers", "pytorch_grad_cam", "yaml", "sklearn", "pandas")


class _Stub(types.ModuleType):
    """A module that has every name."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stub for what is not installed."""

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
    """Checks what is installed, and stubs what is not needed, installed or not.

    Raises:
      SystemExit: a package is missing; the message names it.
    """
    # cv2 resizes the maps: grad-cam needs the real one.
    missing = [n for n in (*NEEDED, "cv2") if importlib.util.find_spec(n) is None]
    if missing:
        names = {"pytorch_grad_cam": "grad-cam", "cv2": "opencv-python-headless"}
        install = " ".join(names.get(n, n) for n in missing)
        sys.exit(f"missing packages: {', '.join(missing)}. pip install {install}")
    # Before the stubs: they look for torchvision and would take one for it.
    importlib.import_module("transformers.modeling_utils")
    sys.meta_path.insert(0, _Stubs(UNUSED))


def run(checkout: str, z: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Loads the checkout, trains `cfg/steps` steps by its own loop, and records."""
    import torch

    sys.path.insert(0, checkout)
    os.chdir(checkout)
    torch.Tensor.cuda = lambda self, *a, **k: self  # type: ignore[assignment]
    torch.nn.Module.cuda = lambda self, *a, **k: self  # type: ignore[assignment]
    from transformers.optimization import get_cosine_schedule_with_warmup

    encoder: Any = importlib.import_module("models.encoder")
    projector = importlib.import_module("models.projector")
    cam_helper: Any = importlib.import_module("utils.cam_helper")
    loop = importlib.import_module("utils.train_validate")
    cfg = {k[4:]: a.item() for k, a in z.items() if k.startswith("cfg/")}
    out = dict(z)
    recorder = Recorder(cfg)

    config = encoder.ViTConfig
    encoder.ViTConfig = lambda: config(
        hidden_size=cfg["hidden"],
        num_hidden_layers=cfg["layers"],
        num_attention_heads=cfg["heads"],
        intermediate_size=cfg["mlp"],
        layer_norm_eps=cfg["layer_norm_eps"],
    )
    side = cfg["image"] // cfg["patch"]
    # Theirs has the number 64 in it.
    cam_helper.reshape_transform_vit_huggingface = lambda a: a.reshape(
        a.shape[0], side, side, a.shape[2]
    ).permute(0, 3, 1, 2)
    recorder.wrap(cam_helper, "get_2d_projection")
    recorder.wrap(cam_helper, "scale_cam_image")
    recorder.wrap(cam_helper.MyGradCAM, "get_cam_weights")
    recorder.wrap(loop, "cam2mask")

    genes = [str(n) for n in range(z["batch0/dis_gene"].shape[1])]
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

    class Wrapped(torch.nn.Module):
        """Their loop reads `.module` of the trained heads (item 35)."""

        def __init__(self, module: Any):
            super().__init__()
            self.module = module

        def forward(self, x: Any) -> Any:
            return self.module(x)

    def named() -> dict[str, np.ndarray]:
        return {
            f"{name}.{key}": tensor.detach().numpy().copy()
            for name, part in parts.items()
            for key, tensor in part.state_dict().items()
        }

    watched = {"Transformer", "ContrastiveProjectors", "CrossEntropyLoss"}
    watched |= {"GeneGuidance", "MultiHeadContrastiveLoss", "RegionContrastiveLoss"}

    def hook(module: Any, arguments: Any, result: Any) -> None:
        name = type(module).__name__
        if name in watched:
            recorder.keep(name, result)

    torch.nn.modules.module.register_module_forward_hook(hook)
    backward = torch.Tensor.backward

    def kept_backward(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder.steps[-1]["backward"].append(float(self.detach()))
        return backward(self, *args, **kwargs)

    torch.Tensor.backward = kept_backward  # type: ignore[method-assign]

    class Loader:
        """The recorded batches, in their order."""

        sampler = None

        def __len__(self) -> int:
            return cfg["steps"]

        def __iter__(self) -> Any:
            for step in range(cfg["steps"]):
                if step == 1:
                    out.update({f"after1/{k}": a for k, a in named().items()})
                at = f"batch{step % cfg['nbatch']}/"
                names = ("view1", "view2", "dis_gene", "float_gene", "grade")
                recorder.start()
                yield [torch.from_numpy(z[at + name]) for name in names]

    trained = Wrapped(local)
    optimizer = torch.optim.AdamW(
        [{"params": model.parameters()}, {"params": trained.parameters()}],
        lr=cfg["lr"],
        weight_decay=0.01,
    )
    scheduler = get_cosine_schedule_with_warmup(optimizer, cfg["warmup"], cfg["total"])
    step_of = optimizer.step

    def kept_step(*args: Any, **kwargs: Any) -> Any:
        recorder.keep("lr", optimizer.param_groups[0]["lr"])
        if len(recorder.steps) == 1:
            for name, part in parts.items():
                for key, tensor in part.named_parameters():
                    if tensor.grad is not None:
                        out[f"t0/grad/{name}.{key}"] = tensor.grad.numpy().copy()
        return step_of(*args, **kwargs)

    optimizer.step = kept_step  # type: ignore[method-assign]
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
    loop.train(
        (Loader(), None), (model, average, trained), optimizer, scheduler, args, None
    )
    out.update({f"after{cfg['steps']}/{k}": a for k, a in named().items()})
    return out | arrays(recorder)


def main() -> None:
    """Reads the input, runs, writes the recording."""
    checkout, source, target = sys.argv[1:]
    source, target = os.path.abspath(source), os.path.abspath(target)
    prepare()
    with np.load(source, allow_pickle=False) as z:
        recording = run(os.path.abspath(checkout), dict(z))
    np.savez(target, **recording)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
