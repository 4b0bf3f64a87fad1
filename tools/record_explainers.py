"""Records maps of explainers by Captum, pytorch-grad-cam and plain PyTorch, for tests.

    pip install torch==2.13.0 torchvision captum==0.9.0 grad-cam==1.5.7
    python tools/record_explainers.py tests/golden/explainers/vit.npz

Two small Vision Transformers with random weights on random images: one that averages
its patches, one with LayerScale, a class token that is classified, and a register. The
network is written here in PyTorch and shares no code with the package; its weights have
the names and layout of the package's parameters. Recorded are raw values: no ReLU, no
scaling, no resizing of what a library returns.
"""

import sys

import numpy as np
import torch
from captum.attr import IntegratedGradients, Occlusion
from pytorch_grad_cam import GradCAM
from torch import nn
from torch.nn import functional as F

WIDTH, DEPTH, HEADS, MLP, PATCH, SIDE, CLASSES = 16, 3, 2, 32, 4, 16, 3
GRID = SIDE // PATCH
STEPS = 32  # of integrated gradients
CASES = {
    "patches": {"prefix": 0, "layer_scale": False},
    "class_token": {"prefix": 2, "layer_scale": True},
}


def weights_of(prefix, layer_scale, rng):
    """Random weights by the names of the package's parameter tree."""

    def normal(*shape, scale=None):
        scale = shape[-2] ** -0.5 if scale is None and len(shape) > 1 else scale or 0.3
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    each = {
        "norm_attention/scale": 1 + normal(DEPTH, WIDTH, scale=0.2),
        "norm_attention/bias": normal(DEPTH, WIDTH, scale=0.2),
        "qkv/kernel": 1.5 * normal(DEPTH, WIDTH, 3 * WIDTH),
        "qkv/bias": normal(DEPTH, 3 * WIDTH, scale=0.2),
        "out/kernel": normal(DEPTH, WIDTH, WIDTH),
        "out/bias": normal(DEPTH, WIDTH, scale=0.2),
        "norm_mlp/scale": 1 + normal(DEPTH, WIDTH, scale=0.2),
        "norm_mlp/bias": normal(DEPTH, WIDTH, scale=0.2),
        "mlp_in/kernel": normal(DEPTH, WIDTH, MLP),
        "mlp_in/bias": normal(DEPTH, MLP, scale=0.2),
        "mlp_out/kernel": normal(DEPTH, MLP, WIDTH),
        "mlp_out/bias": normal(DEPTH, WIDTH, scale=0.2),
    }
    if layer_scale:
        each["scale_attention"] = 1 + normal(DEPTH, WIDTH, scale=0.3)
        each["scale_mlp"] = 1 + normal(DEPTH, WIDTH, scale=0.3)
    tree = {f"blocks/{name}": array for name, array in each.items()}
    tree["embedding/kernel"] = normal(PATCH * PATCH * 3, WIDTH)
    tree["embedding/bias"] = normal(WIDTH)
    tree["position"] = normal(GRID**2, WIDTH, scale=0.5)
    if prefix:
        tree["ahead"] = normal(prefix, WIDTH, scale=0.5)
    tree["norm/scale"] = 1 + normal(WIDTH)
    tree["norm/bias"] = normal(WIDTH)
    tree["head/kernel"] = normal(WIDTH, CLASSES)
    tree["head/bias"] = normal(CLASSES)
    return tree


class Attention(nn.Module):
    """Multi-head attention that keeps its probabilities, for their gradient."""

    def __init__(self, w, layer):
        super().__init__()
        self.w, self.layer, self.kept = w, layer, None

    def forward(self, y):
        """[B, T, D] to [B, T, D]."""
        w, i = self.w, self.layer
        b, t, _ = y.shape
        qkv = y @ w["blocks/qkv/kernel"][i] + w["blocks/qkv/bias"][i]
        q, k, v = qkv.view(b, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        p = torch.softmax(q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5, dim=-1)
        if p.requires_grad:
            p.retain_grad()
        self.kept = p
        o = (p @ v).transpose(1, 2).reshape(b, t, WIDTH)
        return o @ w["blocks/out/kernel"][i] + w["blocks/out/bias"][i]


class Block(nn.Module):
    """Pre-LN block; its norms are modules, so that a library can hook them."""

    def __init__(self, w, layer):
        super().__init__()
        self.w, self.layer = w, layer
        self.norm1, self.norm2 = (
            layer_norm(w, f"blocks/{name}", layer)
            for name in ("norm_attention", "norm_mlp")
        )
        self.attention = Attention(w, layer)

    def forward(self, x):
        """[B, T, D] to [B, T, D]."""
        w, i = self.w, self.layer
        x = x + self.scaled("scale_attention", self.attention(self.norm1(x)))
        y = self.norm2(x) @ w["blocks/mlp_in/kernel"][i] + w["blocks/mlp_in/bias"][i]
        y = F.gelu(y) @ w["blocks/mlp_out/kernel"][i] + w["blocks/mlp_out/bias"][i]
        return x + self.scaled("scale_mlp", y)

    def scaled(self, name, y):
        """LayerScale where the variant has it."""
        scale = self.w.get(f"blocks/{name}")
        return y if scale is None else y * scale[self.layer]


def layer_norm(w, name, layer=None):
    """A LayerNorm with given weights."""
    norm = nn.LayerNorm(WIDTH, eps=1e-6)
    for own, key in ((norm.weight, "scale"), (norm.bias, "bias")):
        array = w[f"{name}/{key}"]
        own.data = (array if layer is None else array[layer]).clone()
    return norm


class Network(nn.Module):
    """Images [B, 3, H, W] to logits [B, K]."""

    def __init__(self, w, prefix):
        super().__init__()
        self.w, self.prefix = w, prefix
        self.blocks = nn.ModuleList([Block(w, i) for i in range(DEPTH)])
        self.norm = layer_norm(w, "norm")

    def embed(self, image):
        """Images to the input of the first block."""
        b = len(image)
        x = image.view(b, 3, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 3, 5, 1)
        x = x.reshape(b, GRID**2, -1) @ self.w["embedding/kernel"]
        x = x + self.w["embedding/bias"] + self.w["position"]
        if self.prefix:
            x = torch.cat([self.w["ahead"].expand(b, -1, -1), x], dim=1)
        return x

    def classify(self, x):
        """Tokens after the last block to logits."""
        x = self.norm(x)
        v = x[:, 0] if self.prefix else x.mean(dim=1)
        return v @ self.w["head/kernel"] + self.w["head/bias"]

    def forward(self, image):
        """Images to logits."""
        x = self.embed(image)
        for block in self.blocks:
            x = block(x)
        return self.classify(x)


def equation1(network, image, target, block):
    """ds/dv and v of the patches after a block, from which Eq. (1) is made."""
    x = network.embed(image)
    for one in network.blocks[:block]:
        x = one(x)
    v = x.detach().requires_grad_()
    x = v
    for one in network.blocks[block:]:
        x = one(x)
    network.classify(x).gather(1, target[:, None]).sum().backward()
    gradient, v = v.grad[:, network.prefix :], v.detach()[:, network.prefix :]
    return gradient, v


def principal_component(gradient, v):
    """First principal component of the weighted rows; its loadings sum to 0 or more."""
    maps = []
    for g, rows in zip(gradient, v, strict=True):
        weighted = g.mean(dim=0) * rows
        centered = (weighted - weighted.mean(dim=0)).numpy().astype(np.float64)
        direction = np.linalg.svd(centered, full_matrices=False)[2][0]
        direction *= 1 if direction.sum() >= 0 else -1
        maps.append(centered @ direction)
    return np.array(maps)


def rollout(network, image):
    """Abnar and Zuidema: product of half attention, half identity."""
    with torch.no_grad():
        network(image)
    total = torch.eye(network.blocks[0].attention.kept.shape[-1]).expand(
        len(image), -1, -1
    )
    for block in network.blocks:
        p = block.attention.kept.mean(dim=1)
        p = p + torch.eye(p.shape[-1])
        total = (p / p.sum(dim=-1, keepdim=True)) @ total
    return read_row(network, total)


def generic_attention(network, image, target):
    """Chefer et al. 2021: R = R + (gradient * attention)^+ R, without the identity."""
    logits = network(image)
    logits.gather(1, target[:, None]).sum().backward()
    eye = torch.eye(network.blocks[0].attention.kept.shape[-1])
    total = eye.expand(len(image), -1, -1)
    for block in network.blocks:
        kept = block.attention.kept
        total = total + (kept.grad * kept.detach()).clamp(min=0).mean(dim=1) @ total
    return read_row(network, total - eye)


def read_row(network, relevance):
    """The class token's row, or the mean of the patches' rows, at the patches."""
    row = relevance[:, 0] if network.prefix else relevance.mean(dim=1)
    return row[:, network.prefix :]


def grad_cam(network, image, target):
    """pytorch-grad-cam on the last block's first norm, before ReLU and scaling."""

    def reshape(tokens):
        patches = tokens[:, network.prefix :]
        return patches.reshape(len(patches), GRID, GRID, WIDTH).permute(0, 3, 1, 2)

    layer = network.blocks[-1].norm1
    with GradCAM(network, [layer], reshape_transform=reshape) as cam:
        logits = cam.activations_and_grads(image)
        network.zero_grad()
        logits.gather(1, target[:, None]).sum().backward()
        activations = cam.activations_and_grads.activations[0].numpy()
        gradients = cam.activations_and_grads.gradients[0].numpy()
        return cam.get_cam_image(image, layer, target, activations, gradients, False)


def record(name, prefix, layer_scale):
    """Arrays of one case, their names starting with the case's."""
    rng = np.random.default_rng(len(name))
    tree = weights_of(prefix, layer_scale, rng)
    image = rng.standard_normal((3, SIDE, SIDE, 3)).astype(np.float32)
    target = np.array([0, 2, 1])
    w = {key: torch.tensor(array) for key, array in tree.items()}
    network = Network(w, prefix).eval()
    x, t = torch.tensor(image).permute(0, 3, 1, 2).contiguous(), torch.tensor(target)
    out = {"image": image, "target": target, "logits": network(x).detach().numpy()}
    for block in range(1, DEPTH + 1):
        gradient, v = equation1(network, x, t, block)
        evidence = (gradient.sum(dim=1)[:, None] * v).sum(dim=-1)
        out[f"equation1_{block}"] = evidence.numpy()
        out[f"principal_component_{block}"] = principal_component(gradient, v)
    out["rollout"] = rollout(network, x).numpy()
    out["gradient_attention"] = generic_attention(network, x, t).numpy()
    out["grad_cam"] = grad_cam(network, x.clone().requires_grad_(), t)
    out["integrated_gradients"] = (
        IntegratedGradients(network)
        .attribute(x, target=t, n_steps=STEPS, method="gausslegendre")
        .permute(0, 2, 3, 1)
        .numpy()
    )
    window = (3, PATCH, PATCH)
    fallen = Occlusion(network).attribute(x, window, strides=window, target=t)
    out["occlusion"] = fallen[:, 0, ::PATCH, ::PATCH].detach().numpy()
    grid = (3, GRID, GRID)
    shaped = {
        k: a.reshape(grid) if a.size == 3 * GRID**2 else a for k, a in out.items()
    }
    weights = {f"weights/{key}": array for key, array in tree.items()}
    return {f"{name}/{key}": array for key, array in (shaped | weights).items()}


def main(path):
    """Writes all cases to one file."""
    torch.manual_seed(0)
    arrays = {}
    for name, options in CASES.items():
        arrays |= record(name, **options)
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
