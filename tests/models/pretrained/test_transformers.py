"""Imported encoders at published sizes against transformers, run in the test.

Needs the extra `convert`; the default suite has small recordings instead
(test_encoder_import.py). Every stream agrees to 1e-5 of its maximum.
"""

import pytest

from fof_jax.models.pretrained import encoder_import, weight_files
from tests.support import encoder_files

torch = pytest.importorskip(
    "torch", reason="the reference is PyTorch's (extra convert)"
)
transformers = pytest.importorskip(
    "transformers", reason="the reference (extra convert)"
)

pytestmark = pytest.mark.slow
S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
# name: (model type, config, image size)
CASES = {
    "Ti/16": ("vit", {"hidden_size": 192, "num_hidden_layers": 12,
                      "num_attention_heads": 3, "intermediate_size": 768}, (224, 224)),
    "S/16": ("vit", S | {"intermediate_size": 1536, "image_size": 112}, (112, 112)),
    "DINOv2-S/14": ("dinov2", S | {"image_size": 518, "patch_size": 14}, (112, 112)),
    "DINOv2-S+reg/14": ("dinov2_with_registers",
                        S | {"image_size": 98, "patch_size": 14}, (98, 98)),
    # two blocks of L's width with SwiGLU
    "odd": ("dinov2", {"hidden_size": 1024, "num_hidden_layers": 2,
                       "num_attention_heads": 16, "image_size": 64, "patch_size": 16,
                       "use_swiglu_ffn": True}, (64, 64)),
    "odder": ("vit", {"hidden_size": 60, "num_hidden_layers": 3,
                      "num_attention_heads": 5, "intermediate_size": 77,
                      "image_size": [35, 50], "patch_size": 5}, (35, 50)),
}  # fmt: skip


def randomize(model):
    """Sets every parameter to random values that keep activations near unit scale."""
    for name, tensor in model.named_parameters():
        center = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        width = tensor.shape[-1] if tensor.ndim > 1 else 25
        tensor.copy_(center + torch.randn_like(tensor) / width**0.5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("format_", ["safetensors", "pth"])
def test_every_block(tmp_path, name, format_):
    kind, fields, side = CASES[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **fields)
    with torch.no_grad():
        model = transformers.AutoModel.from_config(config, attn_implementation="eager")
        randomize(model.eval())
        image = torch.randn(2, 3, *side)
        reference = model(image, output_hidden_states=True)
    model.save_pretrained(tmp_path)
    if format_ == "pth":
        saved = weight_files.read(tmp_path).tensors
        torch.save({n: torch.tensor(a) for n, a in saved.items()},
                   tmp_path / "pytorch_model.bin")  # fmt: skip
        (tmp_path / "model.safetensors").unlink()
    found = weight_files.read(tmp_path)
    assert found.format == format_
    got = encoder_import.import_encoder(found, "hf")
    assert got.variant == (None if name.startswith("odd") else name)
    pixels = image.numpy().transpose(0, 2, 3, 1)
    streams, tokens = encoder_files.run(got, pixels)
    expected = [*reference.hidden_states, reference.last_hidden_state]
    for i, (stream, tensor) in enumerate(
        zip([*streams, tokens], expected, strict=True)
    ):
        encoder_files.assert_close(stream, tensor.numpy(), f"after block {i}")
