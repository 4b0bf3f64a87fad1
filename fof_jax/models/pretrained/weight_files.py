"""Reads weights files of other libraries: safetensors, .pth and .npz.

The format is detected from the content. No code in a file is executed: safetensors and
.npz hold arrays only, .pth is read with torch's `weights_only`.
"""

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

FORMATS = ("safetensors", "pth", "npz")
# Keys under which training scripts store the state dict.
_STATE_DICT_KEYS = ("state_dict", "model", "teacher")
# Names of the weights in a folder of the Hugging Face Hub, in order of preference.
_HUB_NAMES = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """Content of a weights file.

    Attributes:
      path: path of the file.
      format: one of `FORMATS`.
      tensors: name -> array, converted to float32.
      config: content of config.json in the same folder; None if there is none.
    """

    path: Path
    format: str
    tensors: dict[str, np.ndarray]
    config: Mapping[str, Any] | None


def read(path: Path) -> WeightsFile:
    """Reads a weights file, or the one in a folder of the Hugging Face Hub.

    Raises:
      ValueError: the file does not exist, is sharded, damaged, or none of `FORMATS`.
    """
    path = _file(path)
    format_ = detect_format(path)
    readers = {"safetensors": _read_safetensors, "pth": read_pth, "npz": _read_npz}
    return WeightsFile(
        path=path,
        format=format_,
        tensors=readers[format_](path),
        config=_config(path),
    )


def detect_format(path: Path) -> str:
    """Detects the format, one of `FORMATS`, from the content of a file.

    Raises:
      ValueError: unknown format.
    """
    with path.open("rb") as file:
        start = file.read(9)
    header = int.from_bytes(start[:8], "little")  # length of the header of safetensors
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("data.pkl") for name in names):
            return "pth"
        if names and all(name.endswith(".npy") for name in names):
            return "npz"
    elif start[8:] == b"{" and header < path.stat().st_size:
        return "safetensors"
    elif start[:1] == b"\x80":  # a pickle, written by torch before 1.6
        return "pth"
    kind = "a text file" if start.isascii() and start else "another kind of file"
    raise ValueError(
        f"{path}: neither safetensors nor a PyTorch file (.pth, .bin) nor .npz, but "
        f"{kind}. Was a web page downloaded instead of the file, or is it truncated?"
    )


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """Reads a PyTorch state dict; requires torch, which is imported only here.

    Args:
      path: a state dict, or a dict that has one under `state_dict`, `model` or
        `teacher`.

    Raises:
      ValueError: torch is missing, or the file is not a state dict of plain tensors.
    """
    torch = import_torch("importing a .pth file")
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Pass the path of a .pth file.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for an invalid file
        raise ValueError(
            f"{path}: not a PyTorch file of plain tensors ({type(error).__name__}). "
            "Expected a file written by torch.save(model.state_dict(), …)."
        ) from error
    for key in _STATE_DICT_KEYS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(t, torch.Tensor) for t in loaded.values()
    ):
        raise ValueError(
            f"{path}: contains a {type(loaded).__name__}, expected a state dict (names "
            "to tensors). Save model.state_dict() instead."
        )
    return {name: t.float().numpy() for name, t in loaded.items()}


def import_torch(purpose: str) -> Any:
    """Imports PyTorch, or raises an error that names the purpose."""
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{purpose} needs PyTorch, which is not installed. Run pip install torch."
        ) from error
    return torch


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise ValueError(
            f"{path} does not exist. Pass a weights file, or a folder with one."
        )
    for name in _HUB_NAMES:
        if (path / name).is_file():
            return path / name
        if (path / f"{name}.index.json").is_file():
            raise ValueError(
                f"{path}: sharded weights are not supported. Write one file with "
                "AutoModel.from_pretrained(…).save_pretrained(…, "
                "max_shard_size='100GB')."
            )
    raise ValueError(
        f"{path} is a folder without {' or '.join(_HUB_NAMES)}. Pass the file itself."
    )


def _config(path: Path) -> Mapping[str, Any] | None:
    config_path = path.parent / "config.json"
    if not config_path.is_file():
        return None
    try:
        config = json.loads(config_path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{config_path}: not JSON ({error}). Download it again, or remove it and "
            "pass --encoder and --image_size."
        ) from error
    return config if isinstance(config, dict) else None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return {
            name: _to_float32(array)
            for name, array in safetensors.numpy.load_file(path).items()
        }
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: a damaged safetensors file, or a dtype that NumPy lacks "
            f"({error}). Download it again."
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: _to_float32(archive[name]) for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: a damaged .npz file, or one with objects other than arrays "
            f"({error}). Download it again."
        ) from error


def _to_float32(array: np.ndarray) -> np.ndarray:
    """Converts to float32; NumPy stores bfloat16 as two untyped bytes."""
    if array.dtype == np.dtype("V2"):
        array = array.view(ml_dtypes.bfloat16)
    return np.asarray(array, np.float32)
