"""Initial weights: imported or trained weights replace random initialization."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.models import vit
from fof_jax.training import image_encoder_weights, vit_weights, weights
from fof_jax.types import Params, Variables

CLASS_TOKEN = ("drop", "keep")
POS_EMBED = ("interpolate", "redraw")
# By the name of the folder that a shipped configuration expects: what to get.
SOURCES = {
    "vit-tiny-patch16-224": (
        "It is the ImageNet ViT-Ti/16 that the authors' code starts from. Get "
        "model.safetensors and config.json of WinKawaks/vit-tiny-patch16-224 from the "
        "Hugging Face Hub (23 MB) into one folder, here called vit-tiny, and type\n"
        "  python launch.py import --from=hf vit-tiny/model.safetensors --out={folder}"
    ),
}


def checkpoint_path(checkpoint: str | None) -> Path | None:
    """`init.checkpoint` as a path; None and "" are from scratch."""
    return Path(checkpoint) if checkpoint else None


def require_checkpoint(checkpoint: str | None) -> None:
    """Checks that the folder of `init.checkpoint` exists, before compilation.

    Raises:
      ValueError: with the file to get and the command to import it.
    """
    folder = checkpoint_path(checkpoint)
    if folder is None or folder.exists():
        return
    source = SOURCES.get(folder.name)
    make = source.format(folder=folder) if source else (
        "Pass a folder that `python launch.py import` made, or a fold of a run."
    )  # fmt: skip
    raise ValueError(
        f"init.checkpoint: {folder} does not exist. {make}\n"
        "To train from scratch: --config.init.checkpoint=None."
    )


def initial_variables(
    fresh: Variables,
    *,
    checkpoint: str | None,
    encoder: vit.ViT | None,
    class_token: str,
    pos_embed: str,
    pos_resize: str,
    log: Callable[[str], None],
) -> Variables:
    """Variables to train from: `fresh` with the weights of a folder inserted.

    Args:
      fresh: as initialized.
      checkpoint: `init.checkpoint`; None leaves everything as initialized.
      encoder: of the method; None for an encoder that is not the ViT.
      class_token: "drop" leaves a source's class token out, "keep" requires one.
      pos_embed: what happens to a position embedding of another grid: "interpolate",
        or "redraw", which keeps the newly initialized one.
      pos_resize: see `position.resize`.
      log: prints what was loaded, left out, resized and new.

    Raises:
      ValueError: a tensor that does not fit, with both shapes; an unknown option.
    """
    for field, value, allowed in (
        ("class_token", class_token, CLASS_TOKEN),
        ("pos_embed", pos_embed, POS_EMBED),
    ):
        if value not in allowed:
            raise ValueError(
                f"init.{field}={value!r}: expected one of {', '.join(allowed)}"
            )
    folder = checkpoint_path(checkpoint)
    if folder is None:
        log("init.checkpoint: none; everything is drawn at random (from scratch)")
        return fresh
    require_checkpoint(checkpoint)
    source, about = weights.read(folder), weights.about(folder)
    encoder_about = about.get("encoder", {})
    name = encoder_about.get("variant")
    origin = f" ({about['from']}: {about['file']})" if about else ""
    log(f"init.checkpoint: {folder}{origin}")
    hint = (
        f"The encoder there is {name}: pass --config.encoder={name}. " if name else ""
    )
    if encoder is None:
        source = image_encoder_weights.fitted(fresh, source, log=log)
        return insert_weights(fresh, source, log=log, hint=hint)
    _check_class_token(encoder_about, class_token)

    def fit(tree: Params, initial: Params) -> Params:
        return vit_weights.fit(
            tree,
            initial,
            encoder,
            encoder_about,
            class_token=class_token,
            pos_embed=pos_embed,
            pos_resize=pos_resize,
            log=log,
        )

    params = _at_encoder(source.params, fresh.params, fit)
    filled = insert_weights(
        fresh, Variables(params=params, state=source.state), log=log, hint=hint
    )
    heads, eps = encoder_about.get("heads"), encoder_about.get("layer_norm_eps")
    if heads is not None and heads != encoder.size.heads:
        raise ValueError(
            f"init.checkpoint: the encoder there has {heads} attention heads, the "
            f"config's {encoder.size.heads}. {hint}"
        )
    if eps is not None and eps != encoder.layer_norm_eps:
        log(
            f"init.checkpoint: made with a LayerNorm eps of {eps:g}, the config has "
            f"{encoder.layer_norm_eps:g} (--config.layer_norm_eps)"
        )
    return filled


def _check_class_token(encoder_about: dict[str, Any], class_token: str) -> None:
    if class_token == "keep" and encoder_about.get("class_token") is False:
        raise ValueError(
            "init.class_token: keep, but the encoder there has no class token. Pass "
            "--config.init.class_token=drop."
        )


def _at_encoder(
    source: Params, fresh: Params, fit: Callable[[Params, Params], Params]
) -> Params:
    """Applies `fit` to the encoder; a bare encoder is put where the method has its."""
    if "encoder" in fresh:
        if "encoder" not in source:
            return source
        return {**source, "encoder": fit(source["encoder"], fresh["encoder"])}
    for part, tree in fresh.items():
        if not isinstance(tree, dict) or "encoder" not in tree:
            continue
        inner = (
            {"encoder": source["encoder"]} if "encoder" in source else source.get(part)
        )
        if not inner or "encoder" not in inner:
            return source
        rest = {name: sub for name, sub in source.items() if name != "encoder"}
        return {**rest, part: _at_encoder(inner, tree, fit)}
    return source


def insert_weights(
    fresh: Variables, source: Variables, *, log: Callable[[str], None], hint: str = ""
) -> Variables:
    """Inserts loaded weights into freshly initialized variables.

    Whole parts (encoder, classifier, …) may be missing from the source; they stay as
    initialized. A part that is present must have all tensors of the method's part, with
    equal shapes. Logs which parts were loaded and which are new.

    Args:
      fresh: initial variables of the method.
      source: as read by `weights.read`.
      log: prints a line.
      hint: ends the message of a shape that does not fit.

    Raises:
      ValueError: a tensor has another shape, is missing from its part, or is not of
        this model; the first of each by name, with both shapes.
    """
    filled: dict[str, dict[str, Any]] = {}
    for name in ("params", "state"):
        expected, loaded = _parts(getattr(fresh, name)), _parts(getattr(source, name))
        extra = sorted(set(loaded) - set(expected))
        if extra:
            raise ValueError(
                f"init.checkpoint: it holds {', '.join(extra)}, which this method does "
                f"not have; its parts are {', '.join(expected) or 'none'}. Was it made "
                "by another method?"
            )
        fitted = {
            part: _fitted(part, tree, loaded[part], hint) if part in loaded else tree
            for part, tree in expected.items()
        }
        for part in sorted(loaded):
            tensors = ", ".join(filter(None, _shapes(loaded[part])))
            log(f"init.checkpoint: {part} loaded" + (f": {tensors}" if tensors else ""))
        new = sorted(set(expected) - set(loaded))
        if new:
            log(f"init.checkpoint: {', '.join(new)} new, initialized at random")
        filled[name] = _joined(fitted)
    return Variables(params=filled["params"], state=filled["state"])


def _parts(tree: dict[str, Any]) -> dict[str, Any]:
    """Top-level parts by name; a part that contains the encoder is split."""
    out: dict[str, Any] = {}
    for name, part in tree.items():
        if isinstance(part, dict) and "encoder" in part:
            out |= {f"{name}.{inner}": sub for inner, sub in part.items()}
        else:
            out[name] = part
    return out


def _joined(parts: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, part in parts.items():
        outer, dot, inner = name.partition(".")
        if dot:
            out.setdefault(outer, {})[inner] = part
        else:
            out[name] = part
    return out


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by dotted name; "" where the tree is one array."""
    return {
        ".".join(str(key.key) for key in path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _fitted(part: str, expected: Any, loaded: Any, hint: str) -> Any:
    shapes, there = _shapes(expected), _shapes(loaded)
    for name in sorted(set(shapes) | set(there)):
        if shapes.get(name) != there.get(name):
            tensor = f"{part}.{name}".rstrip(".")
            raise ValueError(
                f"init.checkpoint: {tensor} has shape {there.get(name, 'none')} "
                f"there and {shapes.get(name, 'none')} in the model that the config "
                f"describes. {hint}Compare encoder, image_size, classes and biomarkers."
            )
    return jax.tree.map(lambda _, leaf: jnp.asarray(leaf), expected, loaded)
