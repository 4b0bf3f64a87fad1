"""PyTorch names of the fusion recordings and the paths of our modules."""

from fof_jax.methods.fusion.foaa import OPERATIONS
from fof_jax.parity.rows.torch_layout import Path


def omics_layers(prefix: str = "", path: Path = ()) -> dict[str, Path]:
    """Layers of MaxNet."""
    hidden = {f"{prefix}encoder.{i}.0": (*path, f"hidden_{i}") for i in range(4)}
    return {**hidden, f"{prefix}classifier.0": (*path, "classifier")}


def omics_masks(prefix: str = "", path: Path = ()) -> dict[str, Path]:
    """Dropouts of MaxNet."""
    return {f"{prefix}encoder.{i}.2#0": (*path, f"dropout_{i}") for i in range(4)}


def kronecker_layers(path: Path, batch_norm: bool) -> dict[str, Path]:
    """Layers of the gated fusion; the classifier is outside in the published code."""
    layers = {"classifier.0": (*path, "classifier")}
    for i in (1, 2):
        layers[f"fusion.linear_h{i}.0"] = (*path, f"input_{i}")
        layers[f"fusion.linear_z{i}"] = (*path, f"gate_{i}")
        layers[f"fusion.linear_z{i}.0"] = (*path, f"gate_{i}")
        layers[f"fusion.linear_o{i}.0"] = (*path, f"output_{i}")
        layers[f"fusion.encoder{i}.0"] = (*path, f"hidden_{i}")
        if batch_norm:
            layers[f"fusion.encoder{i}.1"] = (*path, f"norm_{i}")
    return layers


def kronecker_masks(path: Path, batch_norm: bool) -> dict[str, Path]:
    """Dropouts of the gated fusion."""
    masks = {"fusion.post_fusion_dropout#0": (*path, "dropout_kronecker")}
    for i in (1, 2):
        masks[f"fusion.linear_o{i}.2#0"] = (*path, f"dropout_{i}")
        place = 3 if batch_norm else 2
        masks[f"fusion.encoder{i}.{place}#0"] = (*path, f"dropout_hidden_{i}")
    return masks


def stand_in_layers() -> dict[str, Path]:
    """Layers of the image branch of the recordings."""
    return {
        "path_net.trunk": ("image_encoder", "trunk"),
        "path_net.fc_new1.0": ("projection", "linear"),
        "path_net.fc_new1.1": ("projection", "norm"),
        "path_net.fc_new2": ("image_classifier",),
    }


def hfb_names(published: bool) -> tuple[dict[str, Path], dict[str, Path]]:
    """Layers and dropouts of HFBSurv with three modalities, or with two."""
    layers: dict[str, Path] = {"norm": ("norm",)}
    if not published:
        for torch_name, ours in (("omic", "omics"), ("image", "image")):
            layers[f"encoder_{torch_name}.0"] = (f"encoder_{ours}_0",)
            layers[f"encoder_{torch_name}.2"] = (f"encoder_{ours}_1",)
            layers[f"intra_{torch_name}"] = (f"intra_{ours}",)
        layers |= {
            "attention": ("attention",),
            "inter": ("inter",),
            "fc1": ("hidden_0",),
            "fc2": ("hidden_1",),
            "out": ("classifier",),
        }
        masks: dict[str, Path] = {
            "intra_omic": ("dropout_intra_omics",),
            "intra_image": ("dropout_intra_image",),
            "inter": ("dropout_inter_omics_image",),
            "fc1": ("dropout_0",),
            "fc2": ("dropout_1",),
        }
        return layers, masks
    for m in ("gene", "path", "cona"):
        for i in (0, 1):
            layers[f"encoder_{m}.encoder.{i}.0"] = (f"encoder_{m}_{i}",)
        layers[f"Linear_{m}"] = (f"intra_{m}",)
        layers[f"Linear_{m}_a"] = ("inter",) if m == "gene" else (f"inter_{m}",)
    layers |= {
        "attention.0": ("attention",),
        "encoder.0.0": ("hidden_0",),
        "encoder.1.0": ("hidden_1",),
        "classifier.0": ("classifier",),
    }
    calls = ["intra_gene", "intra_path", "intra_cona"]
    calls += ["inter_gene_path", "inter_gene_cona", "inter_path_cona"]
    masks = {f"factor_drop#{i}": (f"dropout_{call}",) for i, call in enumerate(calls)}
    masks |= {f"encoder.{i}.2#0": (f"dropout_{i}",) for i in (0, 1)}
    return layers, masks


def foaa_names() -> tuple[dict[str, Path], dict[str, Path]]:
    """Layers and dropouts of FOAA."""
    layers: dict[str, Path] = {
        "fc1": ("hidden",),
        "ln": ("norm",),
        "layer_out": ("classifier",),
    }
    masks: dict[str, Path] = {
        "model_EHR.dropout#0": ("omics_encoder", "dropout"),
        "dropout#0": ("dropout",),
    }
    for i in range(3):
        layer = f"model_EHR.layer_{i + 1}.Linear_"
        layers[f"{layer}.0"] = ("omics_encoder", f"hidden_{i}")
        layers[f"{layer}.2"] = ("omics_encoder", f"norm_{i}")
    modules = [f"{op}_from_{d}" for op in OPERATIONS for d in ("omics", "image")]
    for i, ours in enumerate(modules, 1):
        for torch_name, name in (("Q", "query"), ("K", "key"), ("V", "value")):
            layers[f"att{i}.linear_{torch_name}s.0"] = (ours, name)
        layers[f"att{i}.mha_linear"] = (ours, "out")
        masks[f"att{i}.dropout#0"] = (ours, "dropout")
    return layers, masks


def ddm_layers() -> dict[str, Path]:
    """Layers of the DDM-net reconstruction."""
    layers: dict[str, Path] = {"fc": ("fused",), "out": ("classifier",)}
    layers |= {name: (name,) for name in ("query", "key", "value", "project")}
    for torch_name, ours in (("image", "image"), ("omic", "omics")):
        for i in (0, 1):
            for part in ("encoder_", "decoder_", "to_"):
                layers[f"{part}{torch_name}.{2 * i}"] = (f"{part}{ours}_{i}",)
        for part in ("common_", "specific_"):
            layers[f"{part}{torch_name}"] = (f"{part}{ours}",)
    return layers
