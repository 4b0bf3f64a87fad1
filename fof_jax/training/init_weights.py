"""Initial weights: imported or trained weights replace random initialization."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fof_jax.models import vit
from fof_jax.models.pretrained import position_embedding
from fof_jax.training import weights
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
    encoder: vit.ViT,
    class_token: str,
    pos_embed: str,
    pos_resize: str,
    say: Callable[[str], None],
) -> Variables:
    """Variables to train from: `fresh` with the weights of a folder inserted.

    Args:
      fresh: as drawn.
      checkpoint: `init.checkpoint`; None leaves everything as drawn.
      encoder: of the method.
      class_token: "drop" leaves a source's class token out, "keep" requires one.
      pos_embed: what happens to a position embedding of another grid: "interpolate",
        or "redraw", which keeps the drawn one.
      pos_resize: see `position.resize`.
      say: prints what was loaded, left out, resized and new.

    Raises:
      ValueError: what does not fit, with both shapes; a field that is not known.
    """
    for field, value, known in (
        ("class_token", class_token, CLASS_TOKEN),
        ("pos_embed", pos_embed, POS_EMBED),
    ):
        if value not in known:
            raise ValueError(
                f"init.{field}: {value!r} is not known. Expected one of "
                f"{', '.join(known)}."
            )
    folder = checkpoint_path(checkpoint)
    if folder is None:
        say("init.checkpoint: none; everything is drawn at random (from scratch)")
        return fresh
    require_checkpoint(checkpoint)
    given, about = weights.read(folder), weights.about(folder)
    said = about.get("encoder", {})
    name = said.get("variant")
    origin = f" ({about['from']}: {about['file']})" if about else ""
    say(f"init.checkpoint: {folder}{origin}")
    _check_class_token(said, class_token)

    def fit(tree: Params, drawn: Params) -> Params:
        tree = dict(tree)
        if said.get("class_token") and class_token == "drop":
            say("init.checkpoint: encoder class token left out (init.class_token=drop)")
            tree["ahead"] = np.asarray(tree["ahead"])[1:]
            if not len(tree["ahead"]):
                del tree["ahead"]
        width = np.shape(drawn["position"])[1]
        if np.shape(tree["position"])[1] == width:
            tree["position"] = _position(
                tree["position"], drawn["position"], said.get("grid"), encoder.grid,
                pos_embed=pos_embed, pos_resize=pos_resize, say=say,
            )  # fmt: skip
        return tree

    params = _at_encoder(given.params, fresh.params, fit)
    hint = (
        f"The encoder there is {name}: pass --config.encoder={name}. " if name else ""
    )
    begun = insert_weights(
        fresh, Variables(params=params, state=given.state), say=say, hint=hint
    )
    heads, eps = said.get("heads"), said.get("layer_norm_eps")
    if heads is not None and heads != encoder.size.heads:
        raise ValueError(
            f"init.checkpoint: the encoder there has {heads} attention heads, the "
            f"config's {encoder.size.heads}. {hint}"
        )
    if eps is not None and eps != encoder.layer_norm_eps:
        say(
            f"init.checkpoint: made with a LayerNorm eps of {eps:g}, the config has "
            f"{encoder.layer_norm_eps:g} (--config.layer_norm_eps)"
        )
    return begun


def _check_class_token(said: dict[str, Any], class_token: str) -> None:
    if class_token == "keep" and said.get("class_token") is False:
        raise ValueError(
            "init.class_token: keep, but the encoder there has no class token. Pass "
            "--config.init.class_token=drop."
        )


def _at_encoder(
    given: Params, fresh: Params, fit: Callable[[Params, Params], Params]
) -> Params:
    """Applies `fit` to the encoder; a bare encoder is put where the method has its."""
    if "encoder" in fresh:
        if "encoder" not in given:
            return given
        return {**given, "encoder": fit(given["encoder"], fresh["encoder"])}
    for part, tree in fresh.items():
        if not isinstance(tree, dict) or "encoder" not in tree:
            continue
        inner = {"encoder": given["encoder"]} if "encoder" in given else given.get(part)
        if not inner or "encoder" not in inner:
            return given
        rest = {name: sub for name, sub in given.items() if name != "encoder"}
        return {**rest, part: _at_encoder(inner, tree, fit)}
    return given


def _position(
    given: np.ndarray,
    drawn: Any,
    grid: list[int] | None,
    to: tuple[int, int],
    *,
    pos_embed: str,
    pos_resize: str,
    say: Callable[[str], None],
) -> np.ndarray:
    side = math.isqrt(len(given))
    h, w = grid or (side, side)  # runs have square images
    if (h, w) == to:
        return given
    sizes = f"{h} x {w} -> {to[0]} x {to[1]}"
    if pos_embed == "redraw":
        out, how = np.asarray(drawn), "drawn anew"
    else:
        out = position_embedding.resize(
            np.asarray(given), grid=(h, w), to=to, method=pos_resize
        )
        how = pos_resize
    before, after = (float(np.sqrt(np.mean(np.square(a)))) for a in (given, out))
    say(
        f"init.checkpoint: encoder position {sizes}, {how}; root mean square "
        f"{before:.4f} -> {after:.4f}"
    )
    return out


def insert_weights(
    fresh: Variables, given: Variables, *, say: Callable[[str], None], hint: str = ""
) -> Variables:
    """Inserts given weights into freshly initialized variables.

    Whole parts (encoder, classifier, …) may be missing from what is given: they stay
    as drawn. A part that is there has to fit to the last number. What was loaded and
    what is new is said by name.

    Args:
      fresh: of the method that is to be trained.
      given: of `read`.
      say: prints a line.
      hint: ends the message of a shape that does not fit.

    Raises:
      ValueError: a tensor has another shape, is missing from its part, or is not of
        this model; the first of each by name, with both shapes.
    """
    begun: dict[str, dict[str, Any]] = {}
    for name in ("params", "state"):
        wanted, found = _parts(getattr(fresh, name)), _parts(getattr(given, name))
        extra = sorted(set(found) - set(wanted))
        if extra:
            raise ValueError(
                f"init.checkpoint: it holds {', '.join(extra)}, which this method does "
                f"not have ({', '.join(wanted) or 'nothing'}). Was it made by another "
                "method?"
            )
        fitted = {
            part: _fitted(part, tree, found[part], hint) if part in found else tree
            for part, tree in wanted.items()
        }
        for part in sorted(found):
            tensors = ", ".join(filter(None, _shapes(found[part])))
            say(f"init.checkpoint: {part} loaded" + (f": {tensors}" if tensors else ""))
        drawn = sorted(set(wanted) - set(found))
        if drawn:
            say(f"init.checkpoint: {', '.join(drawn)} new, drawn at random")
        begun[name] = _joined(fitted)
    return Variables(params=begun["params"], state=begun["state"])


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


def _fitted(part: str, wanted: Any, found: Any, hint: str) -> Any:
    shapes, there = _shapes(wanted), _shapes(found)
    for name in sorted(set(shapes) | set(there)):
        if shapes.get(name) != there.get(name):
            tensor = f"{part}.{name}".rstrip(".")
            raise ValueError(
                f"init.checkpoint: {tensor} has shape {there.get(name, 'none')} "
                f"there and {shapes.get(name, 'none')} in the model that the config "
                f"describes. {hint}Compare encoder, image_size, classes and biomarkers."
            )
    return jax.tree.map(lambda _, leaf: jnp.asarray(leaf), wanted, found)
