"""Training that begins with an encoder of another program; models that go to theirs."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fof_jax.cli import config
from fof_jax.cli.main import main
from fof_jax.data.augment.pipeline import IMAGENET_MEAN, IMAGENET_STD
from fof_jax.models import vit
from fof_jax.models.pretrained import (
    encoder_import,
    hf_export,
    param_tree,
    tensor_names,
    weight_files,
)
from fof_jax.training import init_weights, optimizer, weights
from fof_jax.training import state as training_state
from fof_jax.types import Batch, Variables
from tests.support import encoder_files, initial, methods

SIZE = vit.Size(width=24, depth=2, heads=3, mlp=48)


def encoder(side=16, size=SIZE, **options):
    shape = (side, side)
    return vit.ViT(
        size=size, patch=4, image_size=shape, implementation="naive", **options
    )


def batch(side=16):
    key = jax.random.key(3)
    return Batch(
        image=jax.random.normal(key, (4, side, side, 3)),
        grade=jnp.array([0, 1, 2, 1]),
        biomarkers=jnp.array([[0, 1], [1, 1], [0, 0], [1, 0]]),
        known=jnp.ones((4, 2), bool),
        floats=jnp.zeros((4, 0), jnp.float32),
        index=jnp.arange(4),
        epoch=jnp.zeros(4, jnp.int32),
        valid=jnp.ones(4, bool),
    )


def fof(g):
    return methods.make("fof", g)


@functools.cache
def fresh(method, seed=0):
    """Variables drawn once for all tests, which do not change them."""
    side = method.network.encoder.image_size[0]
    return initial.filled(method, batch(side), {})


@pytest.fixture(scope="module")
def z():
    return encoder_files.recording()


@pytest.fixture
def imported(z, tmp_path):
    """A folder of weights that `import` would make of a recorded case."""

    def make(case):
        got = encoder_files.read(z, case, tmp_path / f"file_{case}")
        folder = tmp_path / case
        about = {"method": "encoder", "from": "x", "file": "weights"}
        about["encoder"] = encoder_import.describe(got) | {"variant": None}
        weights.write(folder, Variables({"encoder": got.params}, {}), about)
        return got, folder

    return make


def begin(drawn, folder, g, **options):
    said = []
    defaults = {
        "class_token": "drop", "pos_embed": "interpolate", "pos_resize": "bicubic",
    }  # fmt: skip
    begun = init_weights.initial_variables(
        drawn,
        checkpoint=None if folder is None else str(folder),
        encoder=g,
        log=said.append,
        **(defaults | options),
    )
    return begun, "\n".join(said)


# ---- the start -----------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, ""])
def test_from_scratch_is_said(nothing):
    assert init_weights.checkpoint_path(nothing) is None
    drawn = fresh(fof(encoder()))
    begun, said = begin(drawn, nothing, encoder())
    assert begun is drawn
    assert "from scratch" in said


def test_the_class_token_is_dropped_or_kept(imported):
    got, folder = imported("timm_plain")
    image = batch().image
    dropped, kept = encoder(), encoder(class_token=True)
    begun, said = begin(fresh(fof(dropped)), folder, dropped)
    assert "ahead" not in begun.params["encoder"]
    assert "class token left out" in said
    assert "classifier, projectors new, initialized at random" in said
    assert "encoder loaded: blocks.mlp_in.bias" in said

    begun, said = begin(fresh(fof(kept)), folder, kept, class_token="keep")
    assert "left out" not in said
    streams, finished = encoder_files.run(got, np.asarray(image))
    assert streams[0].shape[1] == 17
    method = fof(kept)
    # P7: the class token takes part in attention and is no part of the mean.
    finished = np.asarray(finished)
    feature = jax.jit(method.apply)(begun, Batch(image=image)).features
    np.testing.assert_allclose(feature, finished[:, 1:].mean(axis=1), atol=1e-5)
    pooled = fof(encoder(class_token=True, pooling="class_token"))
    feature = jax.jit(pooled.apply)(begun, Batch(image=image)).features
    np.testing.assert_allclose(feature, finished[:, 0], atol=1e-5)
    grades = jnp.array([0, 1, 2, 1])
    A = np.asarray(jax.jit(method.class_activation_map)(begun, image, grades))
    assert A.shape == (4, 16, 16)
    assert A.max() == 1


def test_registers_stay_whatever_happens_to_the_class_token(imported):
    got, folder = imported("timm_reg")
    assert got.params["ahead"].shape == (3, 24)
    size = vit.Size(24, 2, 3, 48, layer_scale=True, registers=2)
    for options, rows in (({}, 2), ({"class_token": True}, 3)):
        g = encoder(size=size, **options)
        word = "keep" if options else "drop"
        begun, _ = begin(fresh(fof(g)), folder, g, class_token=word)
        assert begun.params["encoder"]["ahead"].shape == (rows, 24)
        logits = jax.jit(fof(g).apply)(begun, batch()).logits
        assert np.isfinite(logits).all()


def test_positions_are_resized_or_drawn_anew_and_the_numbers_said(imported):
    got, folder = imported("timm_plain")
    g = encoder(side=32)
    drawn = fresh(fof(g))
    begun, said = begin(drawn, folder, g)
    before = float(np.sqrt(np.mean(got.params["position"] ** 2)))
    says = f"position 4 x 4 -> 8 x 8, bicubic; root mean square {before:.4f} -> "
    assert says in said
    table = np.asarray(begun.params["encoder"]["position"])
    assert np.corrcoef(table.reshape(8, 8, -1)[::2, ::2].ravel(),
                       got.params["position"].ravel())[0, 1] > 0.7  # fmt: skip
    again, said = begin(drawn, folder, g, pos_embed="redraw")
    assert "4 x 4 -> 8 x 8, initialized anew" in said
    position = drawn.params["encoder"]["position"]
    np.testing.assert_array_equal(again.params["encoder"]["position"], position)
    # Redrawing is for another grid only: the authors' loader keeps what fits.
    same, said = begin(fresh(fof(encoder())), folder, encoder(), pos_embed="redraw")
    np.testing.assert_array_equal(
        same.params["encoder"]["position"], got.params["position"]
    )
    assert "initialized anew" not in said


def test_the_authors_method_takes_an_encoder_too(imported):
    got, folder = imported("timm_plain")

    def method(g):
        return methods.make(
            "release", g, lambda_float_gene=0.0, world_size_emulated=1,
            data_label_transform="raw",
        )  # fmt: skip

    drawn = fresh(method(encoder()))
    begun, said = begin(drawn, folder, encoder())
    np.testing.assert_array_equal(
        begun.params["model"]["encoder"]["position"], got.params["position"]
    )
    for part in ("mask_token", "global_classifier"):
        jax.tree.map(
            np.testing.assert_array_equal,
            begun.params["model"][part],
            drawn.params["model"][part],
        )
        assert f"model.{part}" in said
    with pytest.raises(ValueError, match="1 tokens ahead of the patches.*drop"):
        fresh(method(encoder(class_token=True)))


def test_what_does_not_fit_is_an_error(imported):
    _, folder = imported("timm_plain")
    wide = encoder(size=vit.Size(48, 2, 3, 48))
    with pytest.raises(ValueError, match=r"blocks.mlp_in.kernel.* \(2, 24, 48\) there"):
        begin(fresh(fof(wide)), folder, wide)
    heads = encoder(size=vit.Size(24, 2, 2, 48))
    with pytest.raises(ValueError, match="there has 3 attention heads, the config's 2"):
        begin(fresh(fof(heads)), folder, heads)
    kept = encoder(class_token=True)
    _, none = imported("ijepa")
    with pytest.raises(ValueError, match="the encoder there has no class token"):
        begin(fresh(fof(kept)), none, kept, class_token="keep")
    for field in ("class_token", "pos_embed", "pos_resize"):
        other = encoder(side=32)
        with pytest.raises(ValueError, match=f"init.{field}.*'x'.*xpected"):
            begin(fresh(fof(other)), folder, other, **{field: "x"})


def test_another_eps_is_said(imported):
    _, folder = imported("timm_plain")
    g = encoder(layer_norm_eps=1e-5)
    assert (
        "LayerNorm eps of 1e-06, the config has 1e-05"
        in begin(fresh(fof(g)), folder, g)[1]
    )


@pytest.mark.parametrize("build", ["fof", "vit"])
def test_fields_that_contradict_each_other(build):
    def build_on(g):
        return methods.make(build, g)

    with pytest.raises(ValueError, match="has no class token"):
        fresh(build_on(encoder(pooling="class_token")))
    with pytest.raises(ValueError, match="pooling: unknown value 'max'"):
        fresh(build_on(encoder(pooling="max")))
    with pytest.raises(ValueError, match="freeze_blocks: got 3, expected 0 … 2"):
        fresh(build_on(encoder(frozen_blocks=3)))


def test_a_map_needs_patches_that_are_read():
    g = encoder(class_token=True, pooling="class_token")
    with pytest.raises(ValueError, match="cam.block: after the last block"):
        fresh(methods.make("fof", g, cam_block=-1))


# ---- rates by layer ------------------------------------------------------------------


def moved(g, **options):
    """Each leaf's change in one step at rate 1, as a share of plain AdamW's."""
    defaults = {"layer_decay": 1.0, "freeze_blocks": 0, "head_factor": 1.0}
    by_layer = optimizer.scale_by_layer(**(defaults | options))
    chained = optax.chain(optimizer.adamw(**ADAMW), by_layer)
    return moved_by_adamw(), step(one_view(g), chained)


ADAMW = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}


@functools.cache
def moved_by_adamw():
    return step(one_view(encoder()), optimizer.adamw(**ADAMW))


def one_view(g):
    """All parameters of FoF, without masked views, which cost most of compilation."""
    return methods.make("fof", g, frl=False)


def step(method, transform):
    """Each leaf's change in one step at rate 1e-3."""
    variables = fresh(method)
    state = training_state.TrainState(
        step=jnp.zeros((), jnp.int32), params=variables.params, state={},
        opt_state=jax.jit(transform.init)(variables.params),
    )  # fmt: skip
    rate = training_state.Schedule(learning_rate=jnp.float32(1e-3))
    one = jax.jit(lambda s: training_state.update(
        method, transform, s, batch(), rate, {}, jax.random.key(0))[0])  # fmt: skip
    before, after = jax.device_get((variables.params, one(state).params))
    return jax.tree.map(lambda a, b: b - a, before, after)


def test_rates_by_layer():
    want, got = moved(encoder(), layer_decay=0.5, head_factor=10.0)
    for part in ("classifier", "projectors"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(b, 10 * a, rtol=1e-3, atol=1e-7),
            want[part],
            got[part],
        )
    mine, theirs = got["encoder"], want["encoder"]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)  # noqa: E731
    close(mine["norm"]["scale"], theirs["norm"]["scale"])
    close(mine["position"], theirs["position"] / 8)
    close(mine["embedding"]["kernel"], theirs["embedding"]["kernel"] / 8)
    for layer, share in ((0, 4), (1, 2)):
        close(
            mine["blocks"]["qkv"]["kernel"][layer],
            theirs["blocks"]["qkv"]["kernel"][layer] / share,
        )


def test_frozen_blocks_do_not_move_and_the_others_do_as_before():
    want, got = moved(encoder(frozen_blocks=1), freeze_blocks=1)
    assert not np.any(got["encoder"]["position"])
    assert not np.any(got["encoder"]["embedding"]["kernel"])
    for name, part in got["encoder"]["blocks"].items():
        for leaf, change in part.items():
            assert not np.any(change[0]), (name, leaf)
            if (name, leaf) == ("qkv", "bias"):
                continue  # the keys' has no gradient: Adam follows its rounding
            before = want["encoder"]["blocks"][name][leaf][1]
            np.testing.assert_allclose(change[1], before, rtol=1e-2, atol=2e-6)


def test_frozen_blocks_cost_no_backward_pass():
    def flops(frozen):
        g = encoder(
            frozen_blocks=frozen, remat="none", unroll=2, size=vit.Size(24, 4, 3, 48)
        )
        method = methods.make("vit", g)
        variables = fresh(method)
        loss = lambda p: method.loss(  # noqa: E731
            Variables(p, {}), batch(), methods.CTX
        )[0]
        return jax.jit(jax.grad(loss)).lower(variables.params).cost_analysis()["flops"]

    none, three = flops(0), flops(3)
    assert three < 0.75 * none


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layer_decay", 0.0, "got 0.0, expected 0 < … <= 1"),
        ("head_factor", -1.0, "expected more than 0"),
        ("freeze_blocks", -1, "expected 0 or more"),
    ],
)
def test_rates_out_of_range(field, value, message):
    defaults = {"layer_decay": 1.0, "freeze_blocks": 0, "head_factor": 1.0}
    with pytest.raises(ValueError, match=message):
        optimizer.scale_by_layer(**(defaults | {field: value}))


# ---- export --------------------------------------------------------------------------

LAYER_SCALE = vit.Size(24, 2, 3, 48, layer_scale=True)
EXPORTS = {
    "ijepa": ({}, "ijepa"),
    "ijepa_folded": ({"size": LAYER_SCALE}, "ijepa"),
    "vit": ({"class_token": True, "pooling": "class_token"}, "vit"),
    "dinov2_mean": ({"class_token": True}, "dinov2"),
    "dinov2": ({"size": LAYER_SCALE, "class_token": True,
                "pooling": "class_token"}, "dinov2"),
    "registers": ({"size": vit.Size(24, 2, 3, 48, layer_scale=True, registers=2),
                   "class_token": True}, "dinov2_with_registers"),
    "swiglu": ({"size": vit.Size(24, 2, 3, 64, layer_scale=True, swiglu=True),
                "class_token": True}, "dinov2"),
}  # fmt: skip


def exported(tmp_path, case):
    """A model with nothing at 0 or 1, and the folder that was written of it."""
    g = encoder(**EXPORTS[case][0])
    method = fof(g)
    drawn = fresh(method)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda a: jnp.asarray(a + 0.1 * rng.standard_normal(a.shape, np.float32)),
        jax.device_get(drawn),
    )
    folder = tmp_path / "exported"
    hf_export.write(
        folder, g, variables.params["encoder"], head=variables.params["classifier"],
        classes=("a", "b", "c"), mean=IMAGENET_MEAN, std=IMAGENET_STD,
    )  # fmt: skip
    return method, variables, folder


@pytest.mark.parametrize("case", EXPORTS)
def test_an_exported_model_reads_back(tmp_path, case):
    method, variables, folder = exported(tmp_path, case)
    g = method.network.encoder
    said = json.loads((folder / "config.json").read_text())
    assert said["model_type"] == EXPORTS[case][1]
    assert said["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert (folder / "preprocessor_config.json").exists()
    found = weight_files.read(folder)
    got = encoder_import.import_encoder(found, "hf")
    assert got.left_out[:2] == ("classifier.bias", "classifier.weight")
    assert got.class_token == g.class_token
    assert found.tensors["classifier.weight"].shape[0] == 3  # the background is ours
    image = np.asarray(batch().image)
    _, finished = encoder_files.run(got, image)
    ahead, patches = np.split(np.asarray(finished), [g.num_prefix], axis=1)
    mean = patches.mean(axis=1)
    both = {"ijepa": mean, "vit": ahead[:, 0] if g.num_prefix else None}
    kind = EXPORTS[case][1]
    feature = both[kind] if kind in both else np.hstack([ahead[:, 0], mean])
    logits = feature @ found.tensors["classifier.weight"].T
    logits += found.tensors["classifier.bias"]
    apply = jax.jit(method.apply)
    want = np.asarray(apply(variables, Batch(image=jnp.asarray(image))).logits)
    np.testing.assert_allclose(logits, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
@pytest.mark.parametrize("case", EXPORTS)
def test_transformers_predicts_what_we_do(tmp_path, case):
    torch = pytest.importorskip("torch", reason="the reference is PyTorch")
    transformers = pytest.importorskip("transformers", reason="loads the export")
    method, variables, folder = exported(tmp_path, case)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    image = batch().image
    with torch.no_grad():
        pixels = torch.tensor(np.asarray(image).transpose(0, 3, 1, 2))
        theirs = model(pixels).logits.numpy()
    want = np.asarray(method.apply(variables, Batch(image=image)).logits)
    np.testing.assert_allclose(theirs, want, atol=1e-5 * np.abs(want).max())
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_no_such_model_in_transformers(tmp_path):
    for size in (
        vit.Size(24, 2, 3, 48, registers=2),
        vit.Size(24, 2, 3, 48, swiglu=True),
    ):
        with pytest.raises(ValueError, match="no encoder with registers or SwiGLU but"):
            hf_export.model_type(encoder(size=size))
    odd = encoder(size=vit.Size(24, 2, 3, 52, layer_scale=True), class_token=True)
    params = fresh(fof(odd)).params
    with pytest.raises(ValueError, match="an MLP width of 48, this encoder 52"):
        hf_export.write(
            tmp_path / "x", odd, params["encoder"], mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
    assert list(tmp_path.iterdir()) == []


# ---- as typed ------------------------------------------------------------------------


def mu_file(tmp_path):
    """A ViT of the size mu/8 under Hugging Face's names, with its config.json."""
    g = vit.ViT(size=vit.SIZES["mu"], patch=8, image_size=(32, 32), class_token=True,
                implementation="naive")  # fmt: skip
    params = initial.of_module(g, jnp.zeros((1, 32, 32, 3)))["params"]
    theirs = param_tree.encoder_to(
        params, tensor_names.HF_VIT, patch=8, class_token=True
    )
    said = {
        "model_type": "vit", "image_size": 32, "patch_size": 8, "hidden_size": 64,
        "num_hidden_layers": 4, "num_attention_heads": 2, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    file = encoder_files.write(
        tmp_path / "hub",
        {f"vit.{n}": np.ascontiguousarray(a) for n, a in theirs.items()}
        | {"classifier.weight": np.zeros((9, 64), np.float32)},
        said,
    )
    return params, file


def test_import_and_export_there_and_back(tmp_path, capsys):
    params, file = mu_file(tmp_path)
    folder = tmp_path / "weights" / "mu"
    words = ["import", "--from=hf", str(file), f"--out={folder}"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "safetensors, mu/8, trained at 32 x 32 pixels, with class token" in out
    assert "vit.encoder.layer.*.attention.attention.key.bias x 4" in out
    assert "left out: classifier.weight" in out
    assert "--config.encoder=mu/8 --config.layer_norm_eps=1e-12" in out
    jax.tree.map(
        np.testing.assert_array_equal, weights.read(folder).params["encoder"], params
    )
    back = tmp_path / "back"
    assert main(["export", "--to=hf", f"--checkpoint={folder}", f"--out={back}"]) == 0
    assert "ViTModel" in capsys.readouterr().out
    again = encoder_import.import_encoder(weight_files.read(back), "hf")
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err


def test_mistakes_at_import_are_one_message(z, tmp_path, capsys):
    odd = encoder_files.write(tmp_path / "odd", encoder_files.tensors_of(z, "vit"),
                              json.loads(str(z["vit/config"])))  # fmt: skip
    out = f"--out={tmp_path}/w"
    for words, message in (
        (
            ["--from=hf", str(odd)],
            "variant that a config can name. Expected one of nano, mu",
        ),
        (["--from=timm", str(odd)], "no tensor named 'patch_embed.proj.weight'"),
        (["--from=hf", str(tmp_path / "none")], "does not exist"),
        (["--from=hf", str(odd), "--image_size=0"], "invalid image_size value: '0'"),
        (["--from=keras", str(odd)], "invalid choice: 'keras'"),
    ):
        assert main(["import", *words, out]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_a_run_begins_with_an_imported_encoder_and_is_exported(tmp_path, capsys):
    _, file = mu_file(tmp_path)
    folder = tmp_path / "w"
    assert main(["import", "--from=hf", str(file), f"--out={folder}"]) == 0
    run = [
        "--config=phantom", f"--config.data.dir={tmp_path}/data",
        "--config.data.regions=36", "--config.folds=2", "--config.fold=0",
        "--config.encoder=mu/8", "--config.epochs=1", "--config.batch_size=4",
        f"--workdir={tmp_path}/run",
        f"--config.init.checkpoint={folder}", "--config.init.class_token=keep",
        "--config.optimizer.layer_decay=0.8", "--config.optimizer.freeze_blocks=1",
        "--config.optimizer.head_factor=10",
    ]  # fmt: skip
    capsys.readouterr()
    assert main(run) == 0
    out = capsys.readouterr().out
    assert f"init.checkpoint: {folder} (hf: weights)" in out
    assert "position 4 x 4 -> 8 x 8, bicubic" in out
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["init"] == str(folder)
    trained = weights.read(tmp_path / "run/fold_0").params["encoder"]
    before = weights.read(folder).params["encoder"]
    at = [np.asarray(t["blocks"]["qkv"]["kernel"]) for t in (before, trained)]
    np.testing.assert_array_equal(at[0][0], at[1][0])  # frozen
    assert np.any(at[0][1] != at[1][1])
    hf = tmp_path / "hf"
    words = ["export", "--to=hf", f"--checkpoint={tmp_path}/run/fold_0", f"--out={hf}"]
    assert main(words) == 0
    assert "Dinov2ForImageClassification" in capsys.readouterr().out
    assert json.loads((hf / "config.json").read_text())["id2label"]["2"] == "IV"


def test_the_papers_weights_where_they_are_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="WinKawaks/vit-tiny-patch16-224") as error:
        init_weights.require_checkpoint("weights/vit-tiny-patch16-224")
    text = str(error.value)
    command = "python launch.py import --from=hf vit-tiny/model.safetensors --out=weights/vit-tiny-patch16-224"  # noqa: E501
    for piece in ("model.safetensors and config.json", command,
                  "--config.init.checkpoint=None"):  # fmt: skip
        assert piece in text
    with pytest.raises(ValueError, match="Pass a folder that `python launch.py import"):
        init_weights.require_checkpoint("elsewhere")
    init_weights.require_checkpoint(None)
    none = config.load(["--config=gbmlgg", "--config.init.checkpoint=None"])
    assert none.init.checkpoint is None
    phantom = config.load(["--config=phantom", "--config.init.checkpoint=w"])
    assert phantom.init.checkpoint == "w"
    phantom = ["--config=phantom", f"--config.data.dir={tmp_path}/d"]
    phantom += ["--config.data.regions=20"]
    given = "--config.init.checkpoint=weights/vit-tiny-patch16-224"
    assert main([*phantom, given, f"--workdir={tmp_path}/run"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_torch_a_pth_is_one_line(tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch", reason="writes the .pth")
    path = encoder_files.write(tmp_path, {"a": np.zeros(2)}, format_="pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["import", "--from=dinov2", str(path), f"--out={tmp_path}/w"]) == 2
    err = capsys.readouterr().err
    assert "needs PyTorch" in err
    assert len(err.splitlines()) == 1
