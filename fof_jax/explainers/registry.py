"""Explainers by the names that `--explainers` takes."""

import dataclasses
from collections.abc import Sequence

from fof_jax.explainers import (
    attention_rollout,
    blind,
    equation1,
    grad_cam,
    gradient_attention,
    integrated_gradients,
    occlusion,
    principal_component,
    random_map,
)
from fof_jax.explainers.base import Explain

EQUATION1 = "eq1"
# Name -> (title, function); Eq. (1) is added for the blocks of a model.
_MODEL: dict[str, tuple[str, Explain]] = {
    "grad_cam": ("Grad-CAM", grad_cam.explain),
    "rollout": ("attention rollout", attention_rollout.explain),
    "gradient_attention": ("gradient-weighted attention", gradient_attention.explain),
    "integrated_gradients": ("integrated gradients", integrated_gradients.explain),
    "occlusion": ("occlusion", occlusion.explain),
}
_BLIND: dict[str, tuple[str, Explain]] = {
    "random": ("random", random_map.explain),
    "center": ("center", blind.center),
    "darkest": ("darkest patch", blind.darkest),
    "hematoxylin": ("most hematoxylin", blind.hematoxylin),
    "edges": ("most edges", blind.edges),
}
PRINCIPAL_COMPONENT = "principal_component"
GROUPS = ("all", "main", "model", "blind")


@dataclasses.dataclass(frozen=True)
class Explainer:
    """One way to make a map.

    Attributes:
      name: in tables and for `--explainers`.
      title: for people.
      blind: True for rules that do not read the model.
      explain: gives the evidence of each patch.
    """

    name: str
    title: str
    blind: bool
    explain: Explain


def available(depth: int, cam_block: int) -> dict[str, Explainer]:
    """Every explainer for an encoder, in the order of the tables.

    Args:
      depth: number of blocks.
      cam_block: the block of Eq. (1) in training, from the last: -1, -2 …

    Returns:
      Explainers by name: `eq1` is Eq. (1) at `cam_block`, `eq1:-3` at another block.
    """
    own = f"Eq. (1), block {depth + cam_block + 1}"
    explainers = [Explainer(EQUATION1, own, False, equation1.at_block(cam_block))]
    for block in range(-1, -depth - 1, -1):
        if block != cam_block:
            title = f"Eq. (1), block {depth + block + 1}"
            name = f"{EQUATION1}:{block}"
            explainers.append(Explainer(name, title, False, equation1.at_block(block)))
    explainers.append(
        Explainer(
            PRINCIPAL_COMPONENT,
            "principal component",
            False,
            principal_component.at_block(cam_block),
        )
    )
    for table, is_blind in ((_MODEL, False), (_BLIND, True)):
        explainers += [Explainer(n, t, is_blind, f) for n, (t, f) in table.items()]
    return {one.name: one for one in explainers}


def choose(words: Sequence[str], depth: int, cam_block: int) -> list[Explainer]:
    """The explainers that a list of names and groups asks for, each once.

    Args:
      words: names of `available`, or groups: `all`; `main`, without Eq. (1) at other
        blocks than its own; `model`, those of `main` that read the model; `blind`.
      depth, cam_block: as in `available`.

    Raises:
      ValueError: there is no such name.
    """
    table = available(depth, cam_block)
    main = [n for n in table if ":" not in n]
    groups = {
        "all": list(table),
        "main": main,
        "model": [n for n in main if not table[n].blind],
        "blind": [n for n in main if table[n].blind],
        f"{EQUATION1}:{cam_block}": [EQUATION1],
    }
    chosen: dict[str, Explainer] = {}
    for word in words:
        if word not in groups and word not in table:
            raise ValueError(
                f"explainers: {word!r} does not exist. Expected a list, separated by "
                f"commas, of {', '.join([*GROUPS, *main])}, or eq1:BLOCK with BLOCK "
                f"from -{depth} to -1."
            )
        chosen |= {name: table[name] for name in groups.get(word, [word])}
    return list(chosen.values())
