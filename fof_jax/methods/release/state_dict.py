"""The authors' state dicts <-> our parameters and state, both ways and exact.

Names with a prefix, `model.*`, `local_projectors.*` and `global_projectors.*`, hold a
whole training state. The file that the authors publish is the model's state dict alone,
without the prefix; `module.`, which DistributedDataParallel puts in front, is accepted.
"""

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fof_jax.models.pretrained import param_tree, tensor_names, weight_files
from fof_jax.types import Params, Variables

Tensors = Mapping[str, np.ndarray]

_MODEL = "model."
_ENCODER = "vit."
_HEADS = ("global_classifier", "local_classifier")
_MASK_TOKEN = "vit.embeddings.mask_token"
_SETS = ("local_projectors", "global_projectors")
# our name of a projection matrix -> theirs; genes are numbered
_REGION = {
    "region_in": "region_projector.0.weight",
    "region_out": "region_projector.2.weight",
}
_GENE = "gene_projectors.{}.0.weight"


def from_state_dict(tensors: Tensors) -> Variables:
    """Named tensors to parameters and state.

    Args:
      tensors: a whole state, or the model's alone, with or without `module.`.

    Returns:
      `params["model"]` always; `params["local_projectors"]` and
      `state["global_projectors"]` where the names are there. Prediction and maps need
      the model only.

    Raises:
      ValueError: a tensor is missing, or has no place here.
    """
    left = {_plain(name): np.asarray(a) for name, a in tensors.items()}
    prefixed = any(name.startswith(_MODEL) for name in left)
    start = _MODEL if prefixed else ""
    theirs = {
        name[len(start) :]: a
        for name, a in left.items()
        if name.startswith(start) and not name.startswith(_SETS)
    }
    params: dict[str, Params] = {"model": _model_from(theirs)}
    state: dict[str, Params] = {}
    for group, place in zip(_SETS, (params, state), strict=True):
        part = {n: a for n, a in left.items() if n.startswith(f"{group}.")}
        if part:
            place[group] = _projectors_from(part, group)
    variables = Variables(params=params, state=state)
    known = to_state_dict(variables, patch=_patch(theirs))
    names = {n if prefixed else n.removeprefix(_MODEL) for n in known}
    extra = sorted(set(left) - names - set(known))
    if extra:
        raise ValueError(
            f"release weights: {len(extra)} tensors have no place, first {extra[0]!r}. "
            "Expected the state dict of the authors' model: an encoder without class "
            "token and pooler, two classifiers, projection heads."
        )
    return variables


def to_state_dict(
    variables: Variables, *, patch: int, model_only: bool = False
) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`; also names gradients and moments.

    Args:
      variables: what there is of parameters and state.
      patch: p, in pixels.
      model_only: the published file's form: no prefix, no projection heads.
    """
    ours = variables.params["model"]
    encoder = param_tree.encoder_to(ours["encoder"], tensor_names.HF_VIT, patch=patch)
    out = {f"{_ENCODER}{name}": a for name, a in encoder.items()}
    out[_MASK_TOKEN] = np.asarray(ours["mask_token"])[None, None]
    for head in _HEADS:
        out[f"{head}.weight"] = np.asarray(ours[head]["kernel"]).T
        out[f"{head}.bias"] = np.asarray(ours[head]["bias"])
    if model_only:
        return out
    out = {f"{_MODEL}{name}": a for name, a in out.items()}
    for group, place in zip(_SETS, (variables.params, variables.state), strict=True):
        if group in place:
            heads = place[group]
            for name, other in _REGION.items():
                out[f"{group}.{other}"] = np.asarray(heads[name]).T
            for n, kernel in enumerate(np.asarray(heads["gene"])):
                out[f"{group}.{_GENE.format(n)}"] = kernel.T
    return out


def patch_of(variables: Variables) -> int:
    """The patch side p that parameters are of, which read RGB."""
    rows = variables.params["model"]["encoder"]["embedding"]["kernel"].shape[0]
    return math.isqrt(rows // 3)


def import_pth(path: str | os.PathLike[str]) -> Variables:
    """Reads the authors' `.pth` file; needs torch, which is imported here only.

    Args:
      path: a state dict, or a dict that holds one under `model` or `state_dict`.

    Raises:
      ValueError: torch is missing, the file is not a state dict of plain tensors (it
        is read with `weights_only`, so nothing in it is executed), or see
        `from_state_dict`.
    """
    return from_state_dict(weight_files.read_pth(Path(path)))


def export_pth(
    path: str | os.PathLike[str],
    variables: Variables,
    *,
    patch: int,
    model_only: bool = True,
) -> None:
    """Writes a `.pth` file that the authors' code loads; needs torch.

    Args:
      path: is replaced in one move when the file is whole.
      variables: at least `params["model"]`.
      patch: p, in pixels.
      model_only: see `to_state_dict`; the authors' inference reads this form.

    Raises:
      ValueError: torch is missing.
    """
    torch = weight_files.import_torch("exporting a .pth file")
    named = to_state_dict(variables, patch=patch, model_only=model_only)
    tensors = {n: torch.from_numpy(np.array(a, order="C")) for n, a in named.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            torch.save(tensors, file)
        except BaseException:
            temporary.unlink()
            raise
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)


def _plain(name: str) -> str:
    return name.replace("module.", "", 1)


def _model_from(theirs: Tensors) -> Params:
    named = {n.removeprefix(_ENCODER): a for n, a in theirs.items()}
    rows = _take(theirs, f"{_ENCODER}{tensor_names.HF_VIT.position}").shape[1]
    encoder = param_tree.encoder_from(named, tensor_names.HF_VIT, patches=rows)
    heads = {
        head: {
            "kernel": _take(theirs, f"{head}.weight").T,
            "bias": _take(theirs, f"{head}.bias"),
        }
        for head in _HEADS
    }
    token = _take(theirs, _MASK_TOKEN).reshape(-1)
    return {"encoder": encoder, "mask_token": token, **heads}


def _projectors_from(part: Tensors, group: str) -> Params:
    region = {
        ours: _take(part, f"{group}.{other}").T for ours, other in _REGION.items()
    }
    count = len(part) - len(_REGION)
    genes = [_take(part, f"{group}.{_GENE.format(n)}").T for n in range(count)]
    width = region["region_in"].shape[0]
    empty = np.zeros((0, width, region["region_out"].shape[1]), np.float32)
    return {**region, "gene": np.stack(genes) if genes else empty}


def _patch(theirs: Tensors) -> int:
    return theirs["vit.embeddings.patch_embeddings.projection.weight"].shape[-1]


def _take(tensors: Tensors, name: str) -> np.ndarray:
    if name not in tensors:
        raise ValueError(
            f"release weights: tensor {name!r} is missing; there are {len(tensors)} "
            "others. Expected the state dict of the authors' model."
        )
    return np.asarray(tensors[name])
