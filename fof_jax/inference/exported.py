"""A trained model as one file that needs JAX and nothing of this package.

The file is a zip: `model.stablehlo` (of `jax.export`: uint8 [b, S, S, 3] to
probabilities, weights and normalisation inside, any b, for cpu, cuda and tpu),
`about.json` (classes, size, how an image is prepared, thresholds) and `model_card.md`.
"""

import dataclasses
import functools
import importlib.metadata
import io
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from fof_jax.data.augment import pipeline
from fof_jax.inference import model as inference_model
from fof_jax.inference.outputs import CARD_FILE, USE, Focus
from fof_jax.inference.preprocess import Picture
from fof_jax.training import build
from fof_jax.types import Variables

PROGRAM, ABOUT = "model.stablehlo", "about.json"
PLATFORMS = ("cpu", "cuda", "tpu")
FORM = 1  # of about.json; raised when an older reader would misread it


@dataclasses.dataclass(frozen=True, eq=False)
class Exported(inference_model.Model):
    """A model that came from a file: it predicts, and has no gradients.

    Attributes:
      about: what about.json says.
      text: what model_card.md says.
      program: uint8 tiles to mean, spread and the folds' own probabilities.
    """

    about: dict[str, Any]
    text: str
    program: Any

    explains = False

    def explain(self, picture: Picture, target: str | None = None) -> Focus:
        """Refuses: Eq. (1) needs gradients."""
        raise ValueError(_REFUSAL.format("explain"))

    def features(self, pictures: Sequence[Picture]) -> Float[np.ndarray, "F n D"]:
        """Refuses: the file gives probabilities alone."""
        raise ValueError(_REFUSAL.format("features"))

    def of_folds(
        self, tiles: UInt8[np.ndarray, "n S S 3"]
    ) -> Float[np.ndarray, "n F K"]:
        """The probabilities of each tile in each fold."""
        return self._in_batches(self._call, Variables({}, {}), tiles)

    @functools.cached_property
    def _call(self) -> Any:
        program = jax.jit(self.program)
        return lambda _, tiles: jnp.swapaxes(program(tiles)[2], 0, 1)


_REFUSAL = (
    "{}: an exported file holds the forward pass alone, without gradients and "
    "features. Pass the run's own folder as --checkpoint."
)


def write(
    path: Path,
    model: inference_model.Model,
    *,
    card: str,
    thresholds: Sequence[dict[str, Any]] = (),
) -> None:
    """Writes a model, its folds as an ensemble, whole or not at all.

    Activations are float32 unless the configuration asks for bfloat16 by name, and
    attention is the chunked one, which lowers for every platform.

    Args:
      path: the file.
      model: of `fof_jax.load`, from a run or a fold.
      card: text of model_card.md.
      thresholds: operating points of `eval`, put into about.json as they stand.

    Raises:
      ValueError: the model was exported already, or `path` is a folder.
    """
    if isinstance(model, Exported):
        raise ValueError("export: this model is an exported file already; copy it.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a file. Pass another --out.")
    program = lower(model).serialize()
    about = json.dumps(_about(model, thresholds), indent=1) + "\n"
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr(PROGRAM, program)
        file.writestr(ABOUT, about)
        file.writestr(CARD_FILE, card)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_bytes(whole.getbuffer())
    os.replace(unfinished, path)


def load(path: Path) -> Exported:
    """A file of `write`.

    Raises:
      ValueError: it is none, is damaged, or is of a later form.
    """
    try:
        with zipfile.ZipFile(path) as file:
            program, about, text = (file.read(n) for n in (PROGRAM, ABOUT, CARD_FILE))
        known = json.loads(about)
        form = known["form"]
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as fault:
        raise ValueError(
            f"checkpoint: {path} is no whole file of `export --to=stablehlo` "
            f"({fault}). Pass such a file or a run's folder, or export again."
        ) from fault
    if form != FORM:
        raise ValueError(
            f"checkpoint: {path} has form {form}, this version reads form {FORM}. "
            "Export it again with this version."
        )
    config = ConfigDict(known["config"])
    return Exported(
        method=build.method_of(config),
        folds={name: Variables({}, {}) for name in known["folds"]},
        config=config,
        sides=tuple(known["sides"]) if known["sides"] else None,
        about=known,
        text=text.decode(),
        program=export.deserialize(bytearray(program)).call,
    )


def lower(
    model: inference_model.Model, platforms: Sequence[str] = PLATFORMS
) -> export.Exported:
    """StableHLO of `ensemble`, for any number of images."""
    program, image = ensemble(model)
    return export.export(jax.jit(program), platforms=list(platforms))(image)


def ensemble(model: inference_model.Model) -> tuple[Any, jax.ShapeDtypeStruct]:
    """A model as a function of images alone.

    Returns:
      uint8 [b, S, S, 3] to (mean [b, K], deviation [b, K], of each fold [F, b, K]), and
      the shape of what it takes, with a free b.
    """
    config = portable(model.config)
    method, color = build.method_of(config), config.data.color
    variables = list(model.folds.values())
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)

    def program(
        image: UInt8[Array, "b S S 3"],
    ) -> tuple[Float[Array, "b K"], Float[Array, "b K"], Float[Array, "F b K"]]:
        normalised = pipeline.normalise(image, color=color)

        def fold(of_fold: Variables) -> Float[Array, "b K"]:
            # One image at a time below vmap: attention's tiles need a known size.
            def one(x):
                return method.predict(of_fold, x[None])[0]

            return jax.nn.softmax(jax.vmap(one)(normalised))

        folds = jax.lax.map(fold, stacked)  # one program, whatever F
        return folds.mean(axis=0), folds.std(axis=0), folds

    side = model.image_size
    (b,) = export.symbolic_shape("b")
    return program, jax.ShapeDtypeStruct((b, side, side, 3), jnp.uint8)


def portable(config: ConfigDict) -> ConfigDict:
    """A run's configuration with what a machine may choose for itself settled."""
    settled = ConfigDict(config.to_dict())
    settled.attention, settled.remat = "chunked", "none"
    if settled.compute_dtype == "auto":
        settled.compute_dtype = "float32"
    return settled


def _about(
    model: inference_model.Model, thresholds: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    side, count = model.image_size, len(model.classes)
    options = model.config.data
    return {
        "form": FORM,
        "use": USE,
        "classes": list(model.classes),
        "image_size": side,
        "input": f"RGB, uint8 [b, {side}, {side}, 3]",
        "output": [
            f"probabilities, mean of folds [b, {count}]",
            f"their deviation over folds [b, {count}]",
            f"of each fold [{len(model.folds)}, b, {count}]",
        ],
        "preparation": {
            "test_view": options.test_view,
            "small": options.small,
            "stain": options.stain,
        },
        "normalisation": {
            "inside": True,
            "color": options.color,
            "mean": list(pipeline.IMAGENET_MEAN),
            "std": list(pipeline.IMAGENET_STD),
        },
        "thresholds": list(thresholds),
        "folds": [Path(name).name for name in model.folds],
        "platforms": list(PLATFORMS),
        "versions": {n: importlib.metadata.version(n) for n in ("jax", "jaxlib")},
        "sides": list(model.sides) if model.sides else None,
        "config": portable(model.config).to_dict(),
    }
