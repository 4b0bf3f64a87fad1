"""Tensor names of ViT encoders in other libraries."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Names:
    """Tensor names of an encoder in one library.

    Attributes:
      embedding, norm: patch embedding and final LayerNorm.
      position: position embedding, (1, rows, D).
      class_token, registers: (1, 1, D) and (1, R, D); "" if the library has none.
      block: prefix of block `{}`.
      qkv: queries, keys and values, three names or one.
      out, mlp_out, norm_attention, norm_mlp: names within a block.
      mlp_in: first layer of a plain MLP.
      gated: layers of a gated MLP, (gate and value, out) or (gate, value, out).
      scales: LayerScale of attention and MLP.
      left_out: prefixes of tensors that do not contribute to the features.
    """

    embedding: str
    norm: str
    position: str
    class_token: str
    registers: str
    block: str
    qkv: tuple[str, ...]
    out: str
    mlp_in: str
    mlp_out: str
    norm_attention: str
    norm_mlp: str
    gated: tuple[tuple[str, ...], ...] = ()
    scales: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


HF_VIT = Names(
    embedding="embeddings.patch_embeddings.projection",
    norm="layernorm",
    position="embeddings.position_embeddings",
    class_token="embeddings.cls_token",
    registers="",
    block="encoder.layer.{}",
    qkv=tuple(f"attention.attention.{n}" for n in ("query", "key", "value")),
    out="attention.output.dense",
    mlp_in="intermediate.dense",
    mlp_out="output.dense",
    norm_attention="layernorm_before",
    norm_mlp="layernorm_after",
    left_out=("embeddings.mask_token", "pooler.", "classifier."),
)
HF_DINOV2 = dataclasses.replace(
    HF_VIT,
    registers="embeddings.register_tokens",
    mlp_in="mlp.fc1",
    mlp_out="mlp.fc2",
    norm_attention="norm1",
    norm_mlp="norm2",
    gated=(("mlp.weights_in", "mlp.weights_out"),),
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
    left_out=("embeddings.mask_token", "classifier."),
)
TIMM = Names(
    embedding="patch_embed.proj",
    norm="norm",
    position="pos_embed",
    class_token="cls_token",
    registers="reg_token",
    block="blocks.{}",
    qkv=("attn.qkv",),
    out="attn.proj",
    mlp_in="mlp.fc1",
    mlp_out="mlp.fc2",
    norm_attention="norm1",
    norm_mlp="norm2",
    # SwiGLU as two layers, or packed into one with the names of a plain MLP.
    gated=(("mlp.fc1_g", "mlp.fc1_x", "mlp.fc2"), ("mlp.fc1", "mlp.fc2")),
    scales=("ls1.gamma", "ls2.gamma"),
    left_out=("head.", "pre_logits."),
)
DINOV2 = dataclasses.replace(
    TIMM,
    registers="register_tokens",
    gated=(("mlp.w12", "mlp.w3"),),
    left_out=("mask_token", "head."),
)
