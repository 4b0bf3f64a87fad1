"""Imported encoders against recordings of transformers and timm.

tests/golden/encoders.npz has the residual streams of small encoders with random weights
in float32, from transformers 5.23 and timm 1.0 (tools/record_encoders.py). Every stream
agrees to 1e-5 of its maximum.
"""

import json
import re

import jax
import numpy as np
import pytest

from fof_jax.inference import components
from fof_jax.models.pretrained import (
    augreg,
    encoder_import,
    param_tree,
    position_embedding,
    tensor_names,
    weight_files,
)
from tests.support import encoder_files


@pytest.fixture(scope="module")
def z():
    return encoder_files.recording()


@pytest.mark.parametrize("case", encoder_files.HF + encoder_files.TIMM)
def test_every_block_equals_the_recording(z, tmp_path, case):
    got = encoder_files.read(z, case, tmp_path)
    sizes = encoder_files.sizes_of(z, case)
    assert got.image_size == sizes[0]
    for height, width in sizes:
        prefix = f"{case}/{height}x{width}"
        image = z[f"{prefix}/image"].transpose(0, 2, 3, 1)
        streams, tokens = encoder_files.run(got, image)
        assert len(streams) == got.size.depth + 1
        for i, stream in enumerate(streams):
            expected = z[f"{prefix}/block{i}"]
            encoder_files.assert_close(stream, expected, f"{prefix} block {i}")
        encoder_files.assert_close(tokens, z[f"{prefix}/out"], f"{prefix} out")


def test_properties_come_from_tensors_and_config(z, tmp_path):
    got = {
        case: encoder_files.read(z, case, tmp_path / case)
        for case in encoder_files.HF + encoder_files.TIMM
    }
    assert got["vit"].grid == (4, 6)
    assert got["vit"].layer_norm_eps == 1e-12
    assert got["vit"].left_out == ("pooler.dense.bias", "pooler.dense.weight")
    assert [c for c, g in got.items() if g.class_token] == [
        c for c in got if c != "ijepa"
    ]
    assert [c for c, g in got.items() if g.size.swiglu] == ["swiglu", "timm_swiglu"]
    assert {c: g.size.registers for c, g in got.items() if g.size.registers} == {
        "registers": 3, "timm_reg": 2,
    }  # fmt: skip
    scaled = ["dinov2", "swiglu", "registers", "timm_reg", "timm_swiglu"]
    assert [c for c, g in got.items() if g.size.layer_scale] == scaled
    assert got["dinov2"].left_out == ("embeddings.mask_token",)
    assert got["timm_plain"].left_out == ("head.bias", "head.weight")
    for encoder in got.values():
        assert encoder.variant is None  # no variant has a width of 24


@pytest.mark.parametrize("case", encoder_files.HF)
def test_round_trip(z, tmp_path, case):
    tensors = encoder_files.tensors_of(z, case)
    got = encoder_files.read(z, case, tmp_path)
    table = tensor_names.HF_VIT if case in ("vit", "ijepa") else tensor_names.HF_DINOV2
    restored = param_tree.encoder_to(
        got.params, table, patch=got.patch, class_token=got.class_token
    )
    assert set(restored) == set(tensors) - set(got.left_out)
    summed = {table.class_token, table.position} if got.class_token else set()
    for name in set(restored) - summed:
        np.testing.assert_array_equal(restored[name], tensors[name], err_msg=name)
    # The class token includes its position; the input of block 0 is the same.
    h, w = got.grid
    again = param_tree.encoder_from(restored, table, patches=h * w)
    jax.tree.map(np.testing.assert_array_equal, again, got.params)


@pytest.mark.parametrize("method", position_embedding.METHODS)
@pytest.mark.parametrize("to", [(9, 11), (3, 4), (4, 13)])
def test_resize_equals_pytorch(z, method, to):
    got = position_embedding.resize(z["resize/from"], grid=(4, 6), to=to, method=method)
    expected = z[f"resize/{method}/{to[0]}x{to[1]}"]
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_resize_to_the_same_grid_is_the_identity(z):
    table = z["resize/from"]
    assert (
        position_embedding.resize(table, grid=(4, 6), to=(4, 6), method="bicubic")
        is table
    )
    with pytest.raises(
        ValueError, match="unknown value 'nearest'. Expected one of bicub"
    ):
        position_embedding.resize(table, grid=(4, 6), to=(2, 2), method="nearest")


def test_augreg_equals_timm(z, tmp_path):
    renamed = encoder_files.as_augreg(
        encoder_files.tensors_of(z, "timm_plain"), heads=3
    )
    path = encoder_files.write(tmp_path / "npz", renamed, format_="npz")
    got = encoder_import.import_encoder(
        weight_files.read(path), "augreg", image_size=(16, 16)
    )
    expected = encoder_files.read(z, "timm_plain", tmp_path)
    assert got.size == expected.size  # with the heads, from the kernels' shape
    jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)
    assert "head.weight" in got.left_out
    with pytest.raises(ValueError, match="'root_block/x' is not of a plain"):
        augreg.to_timm(renamed | {"root_block/x": np.zeros(1)})
    del renamed["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/bias"]
    with pytest.raises(ValueError, match="encoderblock_1/.*key/kernel' or its bias"):
        augreg.to_timm(renamed)


def test_dinov2_names_and_chunks(z, tmp_path):
    tensors = encoder_files.tensors_of(z, "timm_reg")
    expected = encoder_files.read(z, "timm_reg", tmp_path)
    renamed = {n.replace("reg_token", "register_tokens"): a for n, a in tensors.items()}
    chunked = {
        re.sub(r"blocks.(\d)", r"blocks.\1.\1", n): a for n, a in renamed.items()
    }
    teacher = {f"teacher.backbone.{n}": a for n, a in chunked.items()}
    teacher["teacher.dino_head.mlp.weight"] = np.zeros((2, 2), np.float32)
    for i, variant in enumerate((renamed, chunked, teacher)):
        path = encoder_files.write(tmp_path / str(i), variant)
        got = encoder_import.import_encoder(
            weight_files.read(path), "dinov2", image_size=(16, 16), heads=3
        )
        jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)
    assert "teacher.dino_head.mlp.weight" in got.left_out


def test_swiglu_in_two_layers_and_with_dinov2_names(z, tmp_path):
    recorded = encoder_files.tensors_of(z, "timm_swiglu")
    expected = encoder_files.read(z, "timm_swiglu", tmp_path)
    apart, packed = {}, {}
    for name, a in recorded.items():
        if ".fc1." in name:
            apart[name.replace("fc1", "fc1_g")], apart[name.replace("fc1", "fc1_x")] = (
                np.split(a, 2)
            )
        else:
            apart[name] = a
        packed[name.replace("fc1", "w12").replace("fc2", "w3")] = a
    for source, tensors in (("timm", apart), ("dinov2", packed)):
        path = encoder_files.write(tmp_path / source, tensors)
        got = encoder_import.import_encoder(
            weight_files.read(path), source, image_size=(16, 16), heads=3
        )
        jax.tree.map(np.testing.assert_array_equal, got.params, expected.params)


# ---- errors --------------------------------------------------------------------------


def refused(z, tmp_path, case, source, change=lambda t: t, config=None, **options):
    path = encoder_files.write(
        tmp_path / "file", change(encoder_files.tensors_of(z, case)), config
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011
        encoder_import.import_encoder(weight_files.read(path), source, **options)
    return str(error.value)


def test_unknown_properties_are_errors(z, tmp_path):
    message = refused(z, tmp_path, "timm_plain", "timm", heads=3)
    assert "unknown training image size" in message
    message = refused(z, tmp_path, "timm_plain", "timm", image_size=(16, 16))
    assert "unknown number of attention heads for a width of 24" in message
    message = refused(z, tmp_path, "timm_plain", "timm", image_size=(20, 16), heads=3)
    assert "has 17 rows, expected 20 for the patches" in message
    message = refused(z, tmp_path, "timm_plain", "hf")
    assert "no tensor named 'embeddings.patch_embeddings" in message
    assert "--from is one of" in message


def test_config_of_another_file_or_network_is_an_error(z, tmp_path):
    config = json.loads(str(z["vit/config"]))
    message = refused(z, tmp_path, "vit", "hf", config=config | {"hidden_size": 48})
    assert "width 48, but the tensors have 24" in message
    message = refused(z, tmp_path, "vit", "hf", config=config | {"model_type": "swin"})
    assert "model_type 'swin' is not supported. Expected one of vit" in message
    message = refused(z, tmp_path, "vit", "hf", config=config | {"hidden_act": "relu"})
    assert "hidden_act 'relu' is not supported" in message
    message = refused(
        z, tmp_path, "vit", "hf", config=config, variant="Ti/16", image_size=(16, 24)
    )
    assert "--encoder: Ti/16 does not match the file" in message


@pytest.mark.parametrize(
    "name",
    ["norm_pre.weight", "fc_norm.weight", "dist_token", "blocks.0.attn.q_norm.weight"],
)
def test_unsupported_tensor_is_an_error(z, tmp_path, name):
    message = refused(
        z, tmp_path, "timm_plain", "timm",
        lambda t: t | {name: np.zeros((1, 24), np.float32)},
        image_size=(16, 16), heads=3,
    )  # fmt: skip
    assert f"tensor {name!r} has no counterpart" in message


def test_missing_tensor_is_an_error(z, tmp_path):
    def without(tensors):
        return {n: a for n, a in tensors.items() if n != "blocks.1.mlp.fc2.bias"}

    message = refused(
        z, tmp_path, "timm_plain", "timm", without, image_size=(16, 16), heads=3
    )
    assert "'blocks.1.mlp.fc2.bias' is missing" in message


# ---- files ---------------------------------------------------------------------------


def test_format_is_detected_from_the_content(z, tmp_path):
    tensors = encoder_files.tensors_of(z, "timm_plain")
    for format_ in ("safetensors", "npz"):
        path = encoder_files.write(tmp_path / format_, tensors, format_=format_)
        assert path.name == "weights"
        found = weight_files.read(path)
        assert found.format == format_
        assert set(found.tensors) == set(tensors)
    torch = pytest.importorskip("torch", reason="writes the .pth files")
    path = encoder_files.write(tmp_path / "pth", tensors, format_="pth")
    assert weight_files.read(path).format == "pth"
    half = {n: torch.tensor(a).bfloat16() for n, a in tensors.items()}
    torch.save({"teacher": half}, path, _use_new_zipfile_serialization=False)
    found = weight_files.read(path)
    assert found.format == "pth"
    assert found.tensors["norm.weight"].dtype == np.float32


def test_half_precision_becomes_float32_exactly(z, tmp_path):
    import ml_dtypes

    single = {"a": np.array([1.5, -3.0, 0.25], np.float32)}
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half = {"a": single["a"].astype(dtype)}
        formats = ("npz", "safetensors") if dtype is np.float16 else ("npz",)
        for format_ in formats:
            got = weight_files.read(
                encoder_files.write(tmp_path / format_, half, format_=format_)
            )
            assert got.tensors["a"].dtype == np.float32
            np.testing.assert_array_equal(got.tensors["a"], single["a"])


def test_bfloat16_safetensors(tmp_path):
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path = tmp_path / "weights"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\xc0\x3f\x40\xc0")
    np.testing.assert_array_equal(weight_files.read(path).tensors["a"], [1.5, -3.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"<html>not found</html>",
            "neither safetensors .* a text file.*a web page",
        ),
        (b"", "neither safetensors"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "another kind of file"),
        (b"\x10\0\0\0\0\0\0\0{bad json......." + bytes(20), "damaged safetensors"),
    ],
)
def test_other_files_are_errors(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        weight_files.read(path)


def test_hub_folder(z, tmp_path):
    config = json.loads(str(z["vit/config"]))
    path = encoder_files.write(tmp_path, encoder_files.tensors_of(z, "vit"), config)
    with pytest.raises(ValueError, match="is a folder without model.safetensors or"):
        weight_files.read(tmp_path)
    path.rename(tmp_path / "model.safetensors")
    assert encoder_import.import_encoder(weight_files.read(tmp_path), "hf").grid == (
        4,
        6,
    )
    (tmp_path / "model.safetensors").rename(tmp_path / "model.safetensors.index.json")
    with pytest.raises(ValueError, match="sharded weights"):
        weight_files.read(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        weight_files.read(tmp_path / "none")


def test_folder_without_an_imported_encoder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="not an imported encoder"):
        components.imported(tmp_path)
