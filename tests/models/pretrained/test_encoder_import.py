"""Encoders of other programs: recorded by transformers and timm, read from files.

tests/golden/encoders.npz holds what transformers 5.23 and timm 1.0 computed with random
weights in float32 (tools/record_encoders.py). Every residual stream agrees to 1e-5 of
its maximum.
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

TOLERANCE = 1e-5  # of the largest number of an array


@pytest.fixture(scope="module")
def z():
    return encoder_files.recording()


def close(got, want, what):
    error = np.abs(np.asarray(got) - want).max() / np.abs(want).max()
    assert error < TOLERANCE, f"{what}: {error:.1e} of the maximum"


@pytest.mark.parametrize("case", encoder_files.HF + encoder_files.TIMM)
def test_every_block_is_what_the_source_computes(z, tmp_path, case):
    got = encoder_files.read(z, case, tmp_path)
    sizes = encoder_files.sizes_of(z, case)
    assert got.image_size == sizes[0]
    for height, width in sizes:
        at = f"{case}/{height}x{width}"
        image = z[f"{at}/image"].transpose(0, 2, 3, 1)
        streams, finished = encoder_files.run(got, image)
        assert len(streams) == got.size.depth + 1
        for i, stream in enumerate(streams):
            close(stream, z[f"{at}/block{i}"], f"{at} block {i}")
        close(finished, z[f"{at}/out"], f"{at} out")


def test_what_the_tensors_and_the_config_tell(z, tmp_path):
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
    for one in got.values():
        assert one.variant is None  # 24 wide: nobody has that


@pytest.mark.parametrize("case", encoder_files.HF)
def test_there_and_back(z, tmp_path, case):
    theirs = encoder_files.tensors_of(z, case)
    got = encoder_files.read(z, case, tmp_path)
    table = tensor_names.HF_VIT if case in ("vit", "ijepa") else tensor_names.HF_DINOV2
    back = param_tree.encoder_to(
        got.params, table, patch=got.patch, class_token=got.class_token
    )
    assert set(back) == set(theirs) - set(got.left_out)
    summed = {table.class_token, table.position} if got.class_token else set()
    for name in set(back) - summed:
        np.testing.assert_array_equal(back[name], theirs[name], err_msg=name)
    # The class token comes with its position; what reaches block 0 is the same.
    h, w = got.grid
    again = param_tree.encoder_from(back, table, patches=h * w)
    jax.tree.map(np.testing.assert_array_equal, again, got.params)


@pytest.mark.parametrize("method", position_embedding.METHODS)
@pytest.mark.parametrize("to", [(9, 11), (3, 4), (4, 13)])
def test_resizing_is_pytorchs(z, method, to):
    got = position_embedding.resize(z["resize/from"], grid=(4, 6), to=to, method=method)
    want = z[f"resize/{method}/{to[0]}x{to[1]}"]
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_resizing_to_the_same_grid_changes_nothing(z):
    table = z["resize/from"]
    assert (
        position_embedding.resize(table, grid=(4, 6), to=(4, 6), method="bicubic")
        is table
    )
    with pytest.raises(
        ValueError, match="'nearest' is not known. Expected one of bicub"
    ):
        position_embedding.resize(table, grid=(4, 6), to=(2, 2), method="nearest")


def test_augreg_is_timm_in_other_names(z, tmp_path):
    theirs = encoder_files.as_augreg(encoder_files.tensors_of(z, "timm_plain"), heads=3)
    path = encoder_files.write(tmp_path / "npz", theirs, form="npz")
    got = encoder_import.encoder(weight_files.read(path), "augreg", image_size=(16, 16))
    want = encoder_files.read(z, "timm_plain", tmp_path)
    assert got.size == want.size  # heads too: the file tells them
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
    assert "head.weight" in got.left_out
    with pytest.raises(ValueError, match="'root_block/x' is not of a plain"):
        augreg.as_timm(theirs | {"root_block/x": np.zeros(1)})
    del theirs["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/bias"]
    with pytest.raises(ValueError, match="encoderblock_1/.*key/kernel' or its bias"):
        augreg.as_timm(theirs)


def test_dinov2s_own_names_and_chunks(z, tmp_path):
    theirs = encoder_files.tensors_of(z, "timm_reg")
    want = encoder_files.read(z, "timm_reg", tmp_path)
    renamed = {n.replace("reg_token", "register_tokens"): a for n, a in theirs.items()}
    chunked = {
        re.sub(r"blocks.(\d)", r"blocks.\1.\1", n): a for n, a in renamed.items()
    }
    teacher = {f"teacher.backbone.{n}": a for n, a in chunked.items()}
    teacher["teacher.dino_head.mlp.weight"] = np.zeros((2, 2), np.float32)
    for i, tensors in enumerate((renamed, chunked, teacher)):
        path = encoder_files.write(tmp_path / str(i), tensors)
        got = encoder_import.encoder(
            weight_files.read(path), "dinov2", image_size=(16, 16), heads=3
        )
        jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
    assert "teacher.dino_head.mlp.weight" in got.left_out


def test_swiglu_in_two_layers_and_in_dinov2s_names(z, tmp_path):
    theirs = encoder_files.tensors_of(z, "timm_swiglu")
    want = encoder_files.read(z, "timm_swiglu", tmp_path)
    apart, packed = {}, {}
    for name, a in theirs.items():
        if ".fc1." in name:
            apart[name.replace("fc1", "fc1_g")], apart[name.replace("fc1", "fc1_x")] = (
                np.split(a, 2)
            )
        else:
            apart[name] = a
        packed[name.replace("fc1", "w12").replace("fc2", "w3")] = a
    for program, tensors in (("timm", apart), ("dinov2", packed)):
        path = encoder_files.write(tmp_path / program, tensors)
        got = encoder_import.encoder(
            weight_files.read(path), program, image_size=(16, 16), heads=3
        )
        jax.tree.map(np.testing.assert_array_equal, got.params, want.params)


# ---- what is refused -----------------------------------------------------------------


def refused(z, tmp_path, case, program, change=lambda t: t, config=None, **options):
    path = encoder_files.write(
        tmp_path / "file", change(encoder_files.tensors_of(z, case)), config
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011
        encoder_import.encoder(weight_files.read(path), program, **options)
    return str(error.value)


def test_nothing_is_guessed(z, tmp_path):
    message = refused(z, tmp_path, "timm_plain", "timm", heads=3)
    assert "at which image size it was trained is not known" in message
    message = refused(z, tmp_path, "timm_plain", "timm", image_size=(16, 16))
    assert "the number of attention heads is not known for a width of 24" in message
    message = refused(z, tmp_path, "timm_plain", "timm", image_size=(20, 16), heads=3)
    assert "has 17 rows, expected 20 for the patches" in message
    message = refused(z, tmp_path, "timm_plain", "hf")
    assert "no tensor named 'embeddings.patch_embeddings" in message
    assert "--from is one of" in message


def test_a_config_that_belongs_to_another_file_or_network(z, tmp_path):
    config = json.loads(str(z["vit/config"]))
    message = refused(z, tmp_path, "vit", "hf", config=config | {"hidden_size": 48})
    assert "width 48, but the tensors have 24" in message
    message = refused(z, tmp_path, "vit", "hf", config=config | {"model_type": "swin"})
    assert "model_type 'swin' is not read. Expected one of vit" in message
    message = refused(z, tmp_path, "vit", "hf", config=config | {"hidden_act": "relu"})
    assert "hidden_act 'relu' is not built here" in message
    message = refused(
        z, tmp_path, "vit", "hf", config=config, variant="Ti/16", image_size=(16, 24)
    )
    assert "--encoder: Ti/16 has other numbers than the file" in message


@pytest.mark.parametrize(
    "name",
    ["norm_pre.weight", "fc_norm.weight", "dist_token", "blocks.0.attn.q_norm.weight"],
)
def test_a_tensor_without_a_place_is_refused(z, tmp_path, name):
    message = refused(
        z, tmp_path, "timm_plain", "timm",
        lambda t: t | {name: np.zeros((1, 24), np.float32)},
        image_size=(16, 16), heads=3,
    )  # fmt: skip
    assert f"tensor {name!r} has no place" in message


def test_a_missing_tensor_is_named(z, tmp_path):
    def less(tensors):
        return {n: a for n, a in tensors.items() if n != "blocks.1.mlp.fc2.bias"}

    message = refused(
        z, tmp_path, "timm_plain", "timm", less, image_size=(16, 16), heads=3
    )
    assert "'blocks.1.mlp.fc2.bias' is missing" in message


# ---- files ---------------------------------------------------------------------------


def test_the_content_tells_the_form(z, tmp_path):
    tensors = encoder_files.tensors_of(z, "timm_plain")
    for form in ("safetensors", "npz"):
        path = encoder_files.write(tmp_path / form, tensors, form=form)
        assert path.name == "weights"
        found = weight_files.read(path)
        assert found.form == form
        assert set(found.tensors) == set(tensors)
    torch = pytest.importorskip("torch", reason="writes the .pth files")
    path = encoder_files.write(tmp_path / "pth", tensors, form="pth")
    assert weight_files.read(path).form == "pth"
    half = {n: torch.tensor(a).bfloat16() for n, a in tensors.items()}
    torch.save({"teacher": half}, path, _use_new_zipfile_serialization=False)
    found = weight_files.read(path)
    assert found.form == "pth"
    assert found.tensors["norm.weight"].dtype == np.float32


def test_half_precision_becomes_float32_exactly(z, tmp_path):
    import ml_dtypes

    whole = {"a": np.array([1.5, -3.0, 0.25], np.float32)}
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half = {"a": whole["a"].astype(dtype)}
        forms = ("npz", "safetensors") if dtype is np.float16 else ("npz",)
        for form in forms:
            got = weight_files.read(
                encoder_files.write(tmp_path / form, half, form=form)
            )
            assert got.tensors["a"].dtype == np.float32
            np.testing.assert_array_equal(got.tensors["a"], whole["a"])


def test_bfloat16_safetensors(tmp_path):
    import safetensors.numpy

    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path = tmp_path / "weights"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\xc0\x3f\x40\xc0")
    np.testing.assert_array_equal(weight_files.read(path).tensors["a"], [1.5, -3.0])
    assert safetensors.numpy.save  # the reader that is meant


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"<html>not found</html>",
            "neither safetensors .* a text file.*a page instead",
        ),
        (b"", "neither safetensors"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "another kind of file"),
        (b"\x10\0\0\0\0\0\0\0{bad json......." + bytes(20), "damaged safetensors"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        weight_files.read(path)


def test_a_folder_of_the_hub(z, tmp_path):
    config = json.loads(str(z["vit/config"]))
    path = encoder_files.write(tmp_path, encoder_files.tensors_of(z, "vit"), config)
    with pytest.raises(ValueError, match="a folder without model.safetensors or"):
        weight_files.read(tmp_path)
    path.rename(tmp_path / "model.safetensors")
    assert encoder_import.encoder(weight_files.read(tmp_path), "hf").grid == (4, 6)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.safetensors.index.json")
    with pytest.raises(ValueError, match="in several pieces"):
        weight_files.read(tmp_path)
    with pytest.raises(ValueError, match="there is no such file"):
        weight_files.read(tmp_path / "none")


def test_a_folder_that_import_has_not_made_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no imported encoder"):
        components.imported(tmp_path)
