"""Exported models: one file that runs in JAX without this package.

The file is a zip of `model.stablehlo` (of `jax.export`: uint8 [b, S, S, 3] to
probabilities; weights and normalization included, any b, for cpu, cuda and tpu),
`about.json` (classes, input size, preprocessing, thresholds, abstention),
`model_card.md`, and, of a model trained with stain normalization, `stain.stablehlo`
(uint8 [h, w, 3] to the same).
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import json
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

from fof_jax import files
from fof_jax.data import training_data
from fof_jax.data.augment import pipeline
from fof_jax.evaluation import abstention
from fof_jax.inference import stain_program
from fof_jax.inference.compiled import in_batches
from fof_jax.inference.model import TrainedModel, reads_bags
from fof_jax.inference.outputs import CARD_FILE, USE
from fof_jax.inference.predictor import Predictor
from fof_jax.training import build
from fof_jax.types import Batch, Variables

PROGRAM, ABOUT = "model.stablehlo", "about.json"
STAIN = "stain.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
FORMAT_VERSION = 1  # of about.json; raised by changes that older readers would misread


@dataclasses.dataclass(eq=False, repr=False)
class ExportedModel(Predictor):
    """A model read from an exported file: predictions only.

    Attributes:
      about: content of about.json.
      card: content of model_card.md.
      program: uint8 tiles to mean, standard deviation and probabilities per fold.
      program_sha256: of its bytes.
    """

    about: dict[str, Any]
    card: str
    program: Any
    program_sha256: str = ""

    def __post_init__(self):
        self.config = ConfigDict(self.about["config"])
        sides = self.about["sides"]
        self.sides = tuple(sides) if sides else None
        self.training = training_data.from_json(self.about.get("training"))

    @property
    def abstention(self) -> dict[str, abstention.Rule]:
        """As in `Predictor`; files of earlier versions have none."""
        return abstention.from_json(self.about.get("abstention", []))

    @property
    def fold_names(self) -> tuple[str, ...]:
        """Names of the folds in the ensemble."""
        return tuple(self.about["folds"])

    def fold_probabilities(
        self,
        tiles: UInt8[np.ndarray, "n S S 3"],
        omics: Float[np.ndarray, "n M"] | None = None,
    ) -> Float[np.ndarray, "n F K"]:
        """Probabilities of each tile by each fold; exported models have no omics."""
        del omics
        return in_batches(lambda part: jnp.swapaxes(self._call(part)[2], 0, 1), tiles)

    @functools.cached_property
    def _call(self) -> Any:
        return jax.jit(self.program)


def write(
    path: Path,
    model: Predictor,
    *,
    card: str,
    thresholds: Sequence[dict[str, Any]] = (),
    rules: Sequence[abstention.Rule] = (),
) -> None:
    """Exports a model, its folds as an ensemble; the file is written atomically.

    Activations are float32 unless the config names bfloat16, and attention is the
    chunked implementation, which can be lowered for every platform.

    Args:
      path: the file.
      model: a `TrainedModel`.
      card: content of model_card.md.
      thresholds: operating points of `eval`, stored in about.json unchanged.
      rules: when the model abstains, stored in about.json.

    Raises:
      ValueError: the model is an exported one or needs omics, `path` is a folder, or
        a rule is of other classes.
    """
    if not isinstance(model, TrainedModel):
        raise ValueError("export: this model is an exported file already; copy it.")
    if model.omic_names:
        raise ValueError(
            f"export: method {model.config.method!r} needs omics at test, and an "
            "exported program takes images alone. Use predict with the run's folder."
        )
    if reads_bags(model):
        raise ValueError(
            f"export: method {model.config.method!r} reads patch features, and an "
            "exported program takes images. Use predict with the run's folder."
        )
    if model.reads_graphs:
        raise ValueError(
            f"export: method {model.config.method!r} reads cell graphs, and an "
            "exported program takes images. Use predict with the run's folder."
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a file. Pass another --out.")
    for rule in rules:
        rule.require(model.classes)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(PROGRAM, lower(model).serialize())
        if model.config.data.stain != "none":
            file.writestr(STAIN, stain_program.lower(PLATFORMS).serialize())
        about = _about(model, thresholds) | {"abstention": abstention.to_json(rules)}
        file.writestr(ABOUT, json.dumps(about, indent=1) + "\n")
        file.writestr(CARD_FILE, card)
    files.write_bytes(path, archive.getvalue())


def load(path: Path) -> ExportedModel:
    """Reads a file written by `write`.

    Raises:
      ValueError: another kind of file, a damaged one, or a newer format.
    """
    try:
        with zipfile.ZipFile(path) as file:
            program, about, card = (file.read(n) for n in (PROGRAM, ABOUT, CARD_FILE))
        parsed = json.loads(about)
        version = parsed["form"]
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            f"checkpoint: {path} is not an intact file of `export --to=stablehlo` "
            f"({error}). Pass such a file or a run's folder, or export again."
        ) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"checkpoint: {path} has format version {version}, this version of the "
            f"program reads {FORMAT_VERSION}. Export it again with this version."
        )
    return ExportedModel(
        about=parsed,
        card=card.decode(),
        program=export.deserialize(bytearray(program)).call,
        program_sha256=hashlib.sha256(program).hexdigest(),
    )


def lower(model: TrainedModel, platforms: Sequence[str] = PLATFORMS) -> export.Exported:
    """Lowers `ensemble` to StableHLO with a symbolic batch size."""
    program, image = ensemble(model)
    return export.export(jax.jit(program), platforms=list(platforms))(image)


def ensemble(model: TrainedModel) -> tuple[Any, jax.ShapeDtypeStruct]:
    """A model as a function of images, with the weights as constants.

    Returns:
      A function of uint8 [b, S, S, 3] to (mean [b, K], standard deviation [b, K], per
      fold [F, b, K]), and its input shape with symbolic b.
    """
    config = portable(model.config)
    method, color = build.method_of(config), config.data.color
    variables = list(model.folds.values())
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)

    def program(
        image: UInt8[Array, "b S S 3"],
    ) -> tuple[Float[Array, "b K"], Float[Array, "b K"], Float[Array, "F b K"]]:
        normalized = pipeline.normalize(image, color=color)

        def fold(of_fold: Variables) -> Float[Array, "b K"]:
            # vmap over single images: tiled attention needs a static batch size.
            def one(x):
                return method.apply(of_fold, Batch(image=x[None])).logits[0]

            return jax.nn.softmax(jax.vmap(one)(normalized))

        folds = jax.lax.map(fold, stacked)  # compiled once for any F
        return folds.mean(axis=0), folds.std(axis=0), folds

    side = model.image_size
    (b,) = export.symbolic_shape("b")
    return program, jax.ShapeDtypeStruct((b, side, side, 3), jnp.uint8)


def portable(config: ConfigDict) -> ConfigDict:
    """A run's config with its device-dependent options resolved."""
    resolved = ConfigDict(config.to_dict())
    resolved.attention, resolved.remat, resolved.unroll = "chunked", "none", 1
    if resolved.compute_dtype == "auto":
        resolved.compute_dtype = "float32"
    return resolved


def _about(model: TrainedModel, thresholds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    side, count = model.image_size, len(model.classes)
    options = model.config.data
    return {
        "form": FORMAT_VERSION,
        "use": USE,
        "classes": list(model.classes),
        "image_size": side,
        "input": f"RGB, uint8 [b, {side}, {side}, 3]",
        "output": [
            f"probabilities, mean over folds [b, {count}]",
            f"their standard deviation over folds [b, {count}]",
            f"per fold [{len(model.fold_names)}, b, {count}]",
        ],
        "preparation": {
            "test_view": options.test_view,
            "small": options.small,
            "stain": options.stain,
            # Before resizing; `load` computes the same with NumPy.
            "stain_program": None if options.stain == "none" else STAIN,
        },
        "normalisation": {
            "inside": True,
            "color": options.color,
            "mean": list(pipeline.IMAGENET_MEAN),
            "std": list(pipeline.IMAGENET_STD),
        },
        "thresholds": list(thresholds),
        "folds": [Path(name).name for name in model.fold_names],
        "platforms": list(PLATFORMS),
        "versions": {n: importlib.metadata.version(n) for n in ("jax", "jaxlib")},
        "sides": list(model.sides) if model.sides else None,
        "training": model.training.to_json() if model.training else None,
        "config": portable(model.config).to_dict(),
    }
