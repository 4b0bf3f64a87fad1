"""Finds methods by the name in `config.method`.

`distill.pkt` is the module `fof_jax.methods.distill.pkt`; some names are short forms.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from fof_jax import methods
from fof_jax.methods.base import Method
from fof_jax.types import DatasetInfo

Build = Callable[[ConfigDict, DatasetInfo], Method]

# Short name -> module below fof_jax.methods.
ALIASES = {"fof": "paper.method", "release": "release.method", "vit": "baseline"}
# Rows of the paper's tables that are one module with an encoder of their own.
IMAGE_ROWS = dict.fromkeys(("pathcnn", "pathcnn_vgg", "swinv2"), "image")
# Fields of students that the config of their teacher does not have.
STUDENT_FIELDS = ("stages", "teacher", "student", "distill")


def names() -> list[str]:
    """Every name that `config.method` accepts: short forms first, then the modules."""
    modules = {
        module.name.removeprefix(f"{methods.__name__}.")
        for module in pkgutil.walk_packages(methods.__path__, f"{methods.__name__}.")
        if not module.ispkg
    }
    rows = (
        name for name in sorted(modules - set(ALIASES.values())) if _has_build(name)
    )
    return [*ALIASES, *IMAGE_ROWS, *rows]


def find(name: str) -> Build:
    """The `build` function of a method.

    Raises:
      ValueError: there is no such method.
    """
    module = {**ALIASES, **IMAGE_ROWS}.get(name, name)
    if not all(part.isidentifier() for part in module.split(".")) or not _has_build(
        module
    ):
        raise ValueError(
            f"method: {name!r} does not exist. Expected one of {', '.join(names())}."
        )
    return importlib.import_module(f"{methods.__name__}.{module}").build


def create(config: ConfigDict, info: DatasetInfo) -> Method:
    """Builds the method that a config names.

    Args:
      config: of the run; the method's `build` reads its own fields.
      info: of the data, for the number of classes, biomarkers and markers.

    Raises:
      ValueError: as `find`; or the config lacks a field that the method reads.
    """
    build = find(config.method)
    try:
        return build(config, info)
    except AttributeError as error:  # how ml_collections reports a missing field
        raise ValueError(
            f"method {config.method!r}: the configuration has no field {error}. "
            "Compare with a config in configs/ that uses this method; a checkpoint of "
            "an earlier version loads with that version."
        ) from None


def stage_config(config: ConfigDict, stage: str) -> ConfigDict:
    """Config of one stage: fields of `config.<stage>` replace those of the config.

    A teacher's has no STUDENT_FIELDS, so that it cannot depend on its student.

    Raises:
      ValueError: the config has no fields for the stage.
    """
    if stage not in config:
        raise ValueError(
            f"stages: {stage!r} has no fields, expected config.{stage} with the fields "
            "that differ in this stage."
        )
    staged = ConfigDict(config.to_dict())
    with staged.ignore_type():
        staged.update(config[stage])
    if stage == "teacher":
        for field in STUDENT_FIELDS:
            if field in staged:
                del staged[field]
    return staged


def create_teacher(config: ConfigDict, info: DatasetInfo) -> Any:
    """The method of the stage "teacher", for the student that learns from it."""
    return create(stage_config(config, "teacher"), info)


def _has_build(module: str) -> bool:
    """Whether a module below `methods` defines `build`; nothing is executed."""
    try:
        spec = importlib.util.find_spec(f"{methods.__name__}.{module}")
    except ModuleNotFoundError:
        return False
    if spec is None or spec.origin is None:
        return False
    with open(spec.origin, encoding="utf-8") as file:
        return "\ndef build(" in file.read()
