"""Import of published ResNet-18, VGG19-BN and SwinV2-T by their names and shapes.

The names are those of the five published state dicts
(tests/golden/methods/published_names.json); values are random, so that every tensor is
followed to its place. The three libraries' SwinV2-T have to give the same parameters.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.cli.main import main
from fof_jax.models import image_encoders
from fof_jax.models.pretrained import (
    image_encoder_import,
    image_encoder_names,
    torch_layers,
    weight_files,
)
from fof_jax.training import image_encoder_weights, init_weights, weights
from fof_jax.types import Variables
from tests.support import encoder_files

GOLDEN = Path(__file__).parents[2] / "golden" / "methods" / "published_names.json"
NAMES = {k.split(" (")[0]: v for k, v in json.loads(GOLDEN.read_text()).items()}
MICROSOFT = "microsoft swinv2_tiny_patch4_window8_256"
TIMM = "timm swinv2_tiny_window8_256"
CONFIG = {"architecture": "swinv2_tiny_window8_256"}


def state_dict(name):
    """Random tensors of a published state dict; zeros for its large classifier."""
    r = np.random.default_rng(0)
    return {
        n: np.broadcast_to(np.float32(0), shape)
        if n.startswith("classifier.")
        else np.asarray(r.standard_normal(shape), np.float32)
        for n, shape in NAMES[name].items()
    }


def file_of(tensors, config=None):
    return weight_files.WeightsFile(Path("weights"), "safetensors", tensors, config)


def imported(tensors, source, **options):
    config = options.pop("config", None)
    return image_encoder_import.import_image_encoder(
        file_of(tensors, config), source, **options
    )


@pytest.fixture(scope="module")
def swin():
    return state_dict(MICROSOFT)


def shapes_of(tree):
    return jax.tree.map(np.shape, tree)


def fresh(name, side=64):
    module = image_encoders.build(name)
    image = jnp.zeros((1, side, side, 3))
    return jax.eval_shape(lambda: module.init(jax.random.key(0), image, train=False))


@pytest.mark.parametrize(
    ("case", "name", "heads", "left_out"),
    [
        ("torchvision resnet18", "resnet18", {"projection", "projection_bn"}, "fc."),
        ("torchvision vgg19_bn", "vgg19bn", {"head"}, "classifier."),
    ],
)
def test_torchvision(case, name, heads, left_out):
    tensors = state_dict(case)
    got = imported(tensors, "torchvision")
    expected = fresh(name)
    assert got.name == name
    assert set(expected["params"]) - set(got.params) == heads
    for ours, theirs in (
        (got.params, expected["params"]),
        (got.statistics, expected["batch_stats"]),
    ):
        wanted = {k: v for k, v in theirs.items() if k not in heads}
        assert shapes_of(ours) == shapes_of(wanted)
    counters = {n for n in tensors if n.endswith("num_batches_tracked")}
    assert set(got.left_out) == counters | {
        n for n in tensors if n.startswith(left_out)
    }
    assert set(got.loaded) == set(tensors) - set(got.left_out)
    # Counters are optional: the published file has none.
    again = imported({n: tensors[n] for n in got.loaded}, "torchvision")
    jax.tree.map(np.testing.assert_array_equal, again.params, got.params)


def test_swin_of_microsoft_and_the_way_back(swin):
    got = imported(swin, "microsoft")
    assert got.name == "swinv2_tiny/8"
    assert shapes_of(got.params) == shapes_of(fresh(got.name)["params"])
    buffers = ("relative_coords_table", "relative_position_index", "attn_mask")
    left = {n for n in swin if n.endswith(buffers) or n.startswith("head.")}
    assert set(got.left_out) == left
    layers = image_encoder_names.swin_layers(image_encoders.build(got.name))
    for name in got.loaded:
        back = torch_layers.from_flax(name, {"params": got.params}, layers)
        np.testing.assert_array_equal(back, swin[name], err_msg=name)


def as_timm(swin):
    """Independent of the import: the names of timm from those of Microsoft."""
    out = {}
    for name in NAMES[TIMM]:
        source = name.replace("head.fc.", "head.")
        if ".downsample." in name:
            stage = int(name.split(".")[1])
            source = name.replace(f"layers.{stage}.", f"layers.{stage - 1}.")
        out[name] = swin[source]
    return out


def as_torchvision(swin):
    """Independent of the import: the names of torchvision from those of Microsoft."""
    out = {}
    for name, shape in NAMES["torchvision swin_v2_t"].items():
        parts = name.split(".")
        source = name
        if parts[:2] == ["features", "0"]:
            source = f"patch_embed.{'proj' if parts[2] == '0' else 'norm'}.{parts[3]}"
        elif parts[0] == "features" and int(parts[1]) % 2:
            stage, block = (int(parts[1]) - 1) // 2, parts[2]
            source = f"layers.{stage}.blocks.{block}." + ".".join(parts[3:])
            source = source.replace(".mlp.0.", ".mlp.fc1.")
            source = source.replace(".mlp.3.", ".mlp.fc2.")
        elif parts[0] == "features":
            stage = int(parts[1]) // 2 - 1
            source = f"layers.{stage}.downsample." + ".".join(parts[2:])
        if name.endswith("attn.qkv.bias"):
            prefix = source.removesuffix("qkv.bias")
            dead = np.full(shape[0] // 3, 9, np.float32)
            out[name] = np.concatenate(
                [swin[f"{prefix}q_bias"], dead, swin[f"{prefix}v_bias"]]
            )
        else:
            out[name] = swin[source].reshape(shape)
    return out


def test_three_libraries_give_the_same_swin(swin):
    expected = imported(swin, "microsoft").params
    timm = imported(as_timm(swin), "timm", config=CONFIG)
    torchvision = imported(as_torchvision(swin), "torchvision")
    for got in (timm, torchvision):
        assert got.name == "swinv2_tiny/8"
        jax.tree.map(np.testing.assert_array_equal, got.params, expected)
    assert len(timm.loaded) == len(NAMES[TIMM]) - 2


def _without(tensors, name):
    return {n: v for n, v in tensors.items() if n != name}


@pytest.mark.parametrize(
    ("change", "source", "options", "message"),
    [
        (
            lambda t: t,
            "timm",
            {},
            "tensors are of SwinV2, expected --from one of micro",
        ),
        (lambda t: t, "torchvision", {}, "expected --from one of microsoft"),
        (as_timm, "timm", {}, "unknown window.*Pass --encoder=swinv2_tiny/8"),
        (lambda t: t, "microsoft", {"variant": "swinv2_tiny/16"}, "does not match"),
        (
            lambda t: _without(t, "norm.bias"),
            "microsoft",
            {},
            "1 tensors are missing, the first is 'norm.bias'",
        ),
        (
            lambda t: t | {"norm.bias": np.zeros(3, np.float32)},
            "microsoft",
            {},
            r"norm.bias has shape \(3,\), expected \(768,\)",
        ),
        (
            lambda t: t | {"layers.0.blocks.0.gate": np.zeros(3, np.float32)},
            "microsoft",
            {},
            "'layers.0.blocks.0.gate' has no place",
        ),
        (
            lambda t: (
                _without(t, "layers.3.blocks.1.attn.logit_scale")
                | {"patch_embed.proj.weight": np.zeros((97, 3, 4, 4), np.float32)}
            ),
            "microsoft",
            {},
            "SwinV2 of width 97",
        ),
    ],
)
def test_what_does_not_fit_is_said(swin, change, source, options, message):
    with pytest.raises(ValueError, match=message):
        imported(change(swin), source, **options)


def test_heads_are_filled_in_and_the_rest_is_loaded():
    lines = []
    r = np.random.default_rng(1)

    def tree(*names):
        return {n: {"kernel": r.standard_normal(2).astype(np.float32)} for n in names}

    drawn = Variables(
        params={"encoder": tree("conv1", "projection"), "classifier": tree("a")},
        state={"batch_stats": {"encoder": tree("bn1", "projection_bn")}},
    )
    given = Variables(
        params={"encoder": tree("conv1")},
        state={"batch_stats": {"encoder": tree("bn1")}},
    )
    fitted = image_encoder_weights.fitted(drawn, given, log=lines.append)
    begun = init_weights.insert_weights(drawn, fitted, log=lines.append)
    for tree_of, name, source in (
        (begun.params["encoder"], "conv1", given.params["encoder"]),
        (begun.params["encoder"], "projection", drawn.params["encoder"]),
        (begun.state["batch_stats"]["encoder"], "bn1",
         given.state["batch_stats"]["encoder"]),
        (begun.params, "classifier", drawn.params),
    ):  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, tree_of[name], source[name])
    assert "init.checkpoint: encoder.projection new, drawn at random" in lines
    # A fusion row has the encoder under another name and projects by itself.
    fusion = Variables(
        params={"image_encoder": tree("conv1")},
        state={"batch_stats": {"image_encoder": tree("bn1"), "norm": tree("x")}},
    )
    trained = Variables(params={"encoder": tree("conv1", "projection")}, state={})
    fitted = image_encoder_weights.fitted(fusion, trained, log=lines.append)
    begun = init_weights.insert_weights(fusion, fitted, log=lines.append)
    np.testing.assert_array_equal(
        begun.params["image_encoder"]["conv1"]["kernel"],
        trained.params["encoder"]["conv1"]["kernel"],
    )
    assert "init.checkpoint: encoder projection left out: this method has none" in lines


@pytest.mark.slow
def test_a_run_starts_from_imported_weights(tmp_path, capsys):
    file = encoder_files.write(tmp_path / "tv", state_dict("torchvision resnet18"))
    folder = tmp_path / "w"
    words = ["import", "--from=torchvision", str(file), f"--out={folder}"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "left out: bn*.num_batches_tracked, fc.bias, fc.weight" in out.replace(
        "bn1", "bn*"
    )
    assert f"--config.init.checkpoint={folder} --config.encoder=resnet18" in out
    run = [
        "--config=phantom", f"--config.data.dir={tmp_path}/data",
        "--config.data.regions=18", "--config.folds=2", "--config.fold=0",
        "--config.epochs=1", "--config.batch_size=4", f"--workdir={tmp_path}/run",
        "--config.method=pathcnn", "--config.encoder=resnet18",
        f"--config.init.checkpoint={folder}",
        "--config.optimizer.learning_rate=1e-12",
    ]  # fmt: skip
    assert main(run) == 0
    out = capsys.readouterr().out
    assert "encoder.projection new, drawn at random" in out
    trained = weights.read(tmp_path / "run/fold_0").params["encoder"]
    given = weights.read(folder).params["encoder"]
    np.testing.assert_allclose(
        trained["layer3_1"]["conv2"]["kernel"],
        given["layer3_1"]["conv2"]["kernel"],
        atol=1e-9,
    )
    assert main(["export", "--to=hf", f"--checkpoint={folder}", "--out=x"]) == 2
    assert "has the encoder resnet18, expected a ViT" in capsys.readouterr().err
