"""The modules of the fusion recordings: how each case builds and calls ours."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from fof_jax.methods.fusion.concat import ConcatFusion
from fof_jax.methods.fusion.ddmnet import LOG_VARIANCE_BOUND, DDMNetFusion
from fof_jax.methods.fusion.foaa import FOAAFusion
from fof_jax.methods.fusion.gpdbn import GPDBNFusion
from fof_jax.methods.fusion.hfbsurv import HFBFusion
from fof_jax.methods.fusion.network import ImageProjection, Network
from fof_jax.methods.fusion.pathomic import KroneckerFusion
from fof_jax.methods.fusion.scnn import SCNNFusion
from fof_jax.models.omics import MaxNet
from fof_jax.parity.rows import fusion_layers, stand_in
from fof_jax.parity.rows.torch_layout import Path

Arrays = Mapping[str, Any]


class Replay(NamedTuple):
    """How a case is replayed.

    Attributes:
      tolerances: suffix of their keys.
      module: ours.
      layers: PyTorch layer to the path of ours.
      masks: recorded dropout call to the path of our dropout module.
      call: of the bound module with inputs and `train`, to what is compared.
      outputs: from the captured intermediates, further recorded outputs by name.
      l1: path of the subtree whose L1 norm the recorded loss has.
    """

    tolerances: str
    module: nn.Module
    layers: dict[str, Path]
    masks: dict[str, Path]
    call: Callable[[Any, Arrays, bool], "Called"]
    outputs: Callable[[Any], dict[str, Any]] = lambda captured: {}
    l1: Path = ()


class Called(NamedTuple):
    """Outputs and losses of a call; `extra` is added to the cross-entropy."""

    outputs: dict[str, Any]
    losses: dict[str, Any]
    extra: Any = 0.0


def find(recording: Mapping[str, np.ndarray], case: str) -> str | None:
    """The family of a case by its constants, or None."""
    has = {
        key.removeprefix(f"{case}/cfg/")
        for key in recording
        if key.startswith(f"{case}/cfg/")
    }
    rules = {
        "maxnet": {"form", "input", "dim", "p", "lambda_l1"},
        "concat": {"form", "input", "dim", "p", "cut_fuse_grad"},
        "pofusion": {"form", "mmhid", "gate1", "gate2", "bilinear"},
        "gpdbn": {"input", "hidden", "widths", "p", "lambda_l1"},
        "hfb": {"modalities", "rank", "p_factor"},
        "foaa": {"dim", "widths", "hidden", "p"},
        "scnn": {"feature", "omic", "widths", "wd"},
        "ddm": {"latent", "sub", "wide", "beta"},
    }
    families = [family for family, keys in rules.items() if keys <= has]
    if "concat" in families:
        return "concat"
    return families[0] if len(families) == 1 else None


def build(family: str, cfg: Mapping[str, Any]) -> Replay:
    """The replay of a family with the constants of a case."""
    return _BUILDERS[family](cfg)


def _fused(module: Any, inputs: Arrays, train: bool) -> Called:
    out = module(
        inputs["image"], inputs["omic"], train=train, known=inputs.get("known")
    )
    outputs = {"feature": out.features, "logits": out.logits}
    extra = 0.0 if out.auxiliary is None else out.auxiliary
    return Called(outputs, dict(out.losses), extra)


def _maxnet(cfg: Mapping[str, Any]) -> Replay:
    def call(module: Any, inputs: Arrays, train: bool) -> Called:
        out = module(inputs["omic"], train=train)
        return Called({"feature": out.features, "logits": out.logits}, {})

    module = MaxNet(cfg["dim"], cfg["classes"], cfg["p"], rectify=cfg["form"] == "x22")
    return Replay(
        "maxnet",
        module,
        fusion_layers.omics_layers(),
        fusion_layers.omics_masks(),
        call,
    )


def _pofusion(cfg: Mapping[str, Any]) -> Replay:
    batch_norm = cfg["form"] == "x22"
    module = KroneckerFusion(
        features=cfg["mmhid"],
        num_classes=cfg["classes"],
        rate=cfg["p"],
        gates=(bool(cfg["gate1"]), bool(cfg["gate2"])),
        scales=(cfg["scale1"], cfg["scale2"]),
        skip=bool(cfg["skip"]),
        bilinear=bool(cfg["bilinear"]),
        batch_norm=batch_norm,
    )
    return Replay(
        "batch norm" if batch_norm else "pofusion",
        module,
        fusion_layers.kronecker_layers((), batch_norm),
        fusion_layers.kronecker_masks((), batch_norm),
        _fused,
        lambda captured: {"kron": captured["kronecker"][0]},
    )


def _concat(cfg: Mapping[str, Any]) -> Replay:
    def call(module: Any, inputs: Arrays, train: bool) -> Called:
        encoded = module.encode(jnp.moveaxis(inputs["image"], 1, 3), train=train)
        out = module.fuse(encoded, inputs["omic"], train=train)
        outputs = {
            "feature": out.fused.features,
            "path_feature": out.image_features,
            "omic_feature": out.omics_features,
            "logits": out.fused.logits,
            "logits_path": out.image_logits,
            "logits_omic": out.omics_logits,
        }
        return Called(outputs, {})

    network = Network(
        image_encoder=stand_in.StandIn(),
        fusion=ConcatFusion(cfg["classes"]),
        omics_network=MaxNet(
            cfg["dim"], cfg["classes"], cfg["p"], rectify=cfg["form"] == "x22"
        ),
        projection=ImageProjection(cfg["dim"], batch_norm=True),
        image_classes=cfg["classes"],
        cut_gradient=bool(cfg["cut_fuse_grad"]),
    )
    layers = {
        "classifier.0": ("fusion", "classifier"),
        **fusion_layers.stand_in_layers(),
        **fusion_layers.omics_layers("omic_net.", ("omics_network",)),
    }
    masks = fusion_layers.omics_masks("omic_net.", ("omics_network",))
    return Replay("batch norm", network, layers, masks, call, l1=("omics_network",))


def _gpdbn(cfg: Mapping[str, Any]) -> Replay:
    widths = tuple(cfg["widths"])
    layers: dict[str, Path] = {
        "gene_path.0": ("inter",),
        "gene_gene.0": ("intra_omics",),
        "path_path.0": ("intra_image",),
        "classifier.0": ("classifier",),
    }
    layers |= {f"encoder.{i}.0": (f"hidden_{i}",) for i in range(len(widths))}
    masks: dict[str, Path] = {
        f"encoder.{i}.2#0": (f"dropout_{i}",) for i in range(len(widths))
    }
    module = GPDBNFusion(cfg["classes"], cfg["p"], cfg["hidden"], widths)
    return Replay("gpdbn", module, layers, masks, _fused)


def _hfb(cfg: Mapping[str, Any]) -> Replay:
    published = cfg["modalities"] == 3
    names = ("gene", "path", "cona") if published else ("omic", "image")

    def call(module: Any, inputs: Arrays, train: bool) -> Called:
        if published:
            out = module.fuse({m: inputs[m] for m in names}, train=train)
            return Called({"feature": out.features, "logits": out.logits}, {})
        return _fused(module, inputs, train)

    module = HFBFusion(
        num_classes=cfg["classes"],
        rate=cfg["p"],
        factor_rate=cfg["p_factor"],
        hidden=cfg["hidden"],
        intra=cfg["o"],
        inter=cfg["o2"],
        rank=cfg["rank"],
        widths=(cfg["cox"], 64),
        as_published=published,
    )
    layers, masks = fusion_layers.hfb_names(published)
    outputs = _hfb_three if published else _hfb_two
    return Replay("hfb", module, layers, masks, call, outputs)


def _hfb_three(captured: Any) -> dict[str, Any]:
    return {"fused": captured["fused"][0]}


def _hfb_two(captured: Any) -> dict[str, Any]:
    scores = [jax.nn.sigmoid(s) for s in captured["attention"]["__call__"]]
    attended = captured["attended"][0]
    return {
        "attended_omic": attended["omics"],
        "attended_image": attended["image"],
        "score_omic": scores[0],
        "score_image": scores[1],
        "similarity": captured["similarity"][0],
        "pair": captured["weights"][0],
        "inter_omic_image": captured["products"][0][0],
        "fused": captured["fused"][0],
        "normed": captured["norm"]["__call__"][0],
    }


def _foaa(cfg: Mapping[str, Any]) -> Replay:
    module = FOAAFusion(
        num_classes=cfg["classes"],
        rate=cfg["p"],
        omics_widths=tuple(cfg["widths"][1:]),
        hidden=cfg["hidden"],
    )
    layers, masks = fusion_layers.foaa_names()
    return Replay("foaa", module, layers, masks, _fused)


def _scnn(cfg: Mapping[str, Any]) -> Replay:
    module = SCNNFusion(cfg["classes"], cfg["p"], tuple(cfg["widths"]), cfg["wd"])
    layers: dict[str, Path] = {f"fc{i + 1}": (f"hidden_{i}",) for i in range(3)}
    layers["out"] = ("classifier",)

    def outputs(captured: Any) -> dict[str, Any]:
        hidden = [captured[f"hidden_{i}"]["__call__"][0] for i in (0, 1)]
        return {
            "fc1": jax.nn.relu(hidden[0]),
            "fc2": jax.nn.relu(hidden[1]),
            "dropped": captured["dropout"]["__call__"][0],
        }

    return Replay("scnn", module, layers, {"drop": ("dropout",)}, _fused, outputs)


def _ddm(cfg: Mapping[str, Any]) -> Replay:
    module = DDMNetFusion(
        num_classes=cfg["classes"],
        rate=cfg["p"],
        hidden=cfg["hidden"],
        latent=cfg["latent"],
        part=cfg["sub"],
        features=cfg["wide"],
        weight=cfg["weight"],
        kl_weight=cfg["beta"],
    )
    layers = fusion_layers.ddm_layers()

    def outputs(captured: Any) -> dict[str, Any]:
        named = {
            "tokens": captured["tokens"][0],
            "attention": captured["attention"][0],
            "pooled": captured["pooled"][0],
            "from_image": captured["to_omics_1"]["__call__"][0],
            "from_omic": captured["to_image_1"]["__call__"][0],
        }
        bound = LOG_VARIANCE_BOUND
        for torch_name, ours in (("image", "image"), ("omic", "omics")):
            encoded = captured[f"encoder_{ours}_1"]["__call__"][0]
            mean, raw = jnp.split(encoded, 2, axis=1)
            named[f"mu_{torch_name}"] = mean
            named[f"logvar_{torch_name}"] = bound * jnp.tanh(raw / bound)
            named[f"z_{torch_name}"] = captured["latent"][0][ours]
            named[f"common_{torch_name}"] = captured[f"common_{ours}"]["__call__"][1]
        return named

    return Replay("ddm", module, layers, {"fc": ("dropout",)}, _fused, outputs)


_BUILDERS: dict[str, Callable[[Mapping[str, Any]], Replay]] = {
    "maxnet": _maxnet,
    "pofusion": _pofusion,
    "concat": _concat,
    "gpdbn": _gpdbn,
    "hfb": _hfb,
    "foaa": _foaa,
    "scnn": _scnn,
    "ddm": _ddm,
}
