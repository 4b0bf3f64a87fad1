"""Weights files of other programs: which form a file has by its content, and reading.

Nothing in a file is executed: safetensors and .npz hold arrays alone, .pth is read with
torch's `weights_only`.
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

FORMS = ("safetensors", "pth", "npz")
# Under these names training programs put the state dict that is wanted.
_WITHIN = ("state_dict", "model", "teacher")
# What a folder of the Hugging Face Hub calls its weights, best first.
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class Found:
    """What was read.

    Attributes:
      path: of the file.
      form: one of `FORMS`.
      tensors: float32 where they were of another float type.
      config: of a config.json beside the file; None without.
    """

    path: Path
    form: str
    tensors: dict[str, np.ndarray]
    config: Mapping[str, Any] | None


def read(path: Path) -> Found:
    """Reads a weights file, or the one in a folder of the Hugging Face Hub.

    Raises:
      ValueError: there is no such file; it is in pieces, none of `FORMS`, or damaged.
    """
    path = _file(path)
    form = detect(path)
    tensors = {"safetensors": _read_safetensors, "pth": read_pth, "npz": _read_npz}
    return Found(
        path=path, form=form, tensors=tensors[form](path), config=_config(path)
    )


def detect(path: Path) -> str:
    """One of `FORMS`, by the content of a file and not by its name.

    Raises:
      ValueError: none of them.
    """
    with path.open("rb") as file:
        start = file.read(9)
    header = int.from_bytes(start[:8], "little")  # of safetensors: its length
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("data.pkl") for name in names):
            return "pth"
        if names and all(name.endswith(".npy") for name in names):
            return "npz"
    elif start[8:] == b"{" and header < path.stat().st_size:
        return "safetensors"
    elif start[:1] == b"\x80":  # a pickle: torch before 1.6
        return "pth"
    kind = "a text file" if start.isascii() and start else "another kind of file"
    raise ValueError(
        f"{path}: neither safetensors nor a PyTorch file (.pth, .bin) nor .npz, but "
        f"{kind}. Was the download a page instead of the file, or cut short?"
    )


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """A state dict that PyTorch wrote; needs torch, which is imported here only.

    Args:
      path: a state dict, or a dict that holds one under `state_dict`, `model` or
        `teacher`.

    Raises:
      ValueError: torch is missing, or the file is not a state dict of plain tensors.
    """
    library = torch("importing a .pth file")
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such file. Pass the path of a .pth file."
        )
    try:
        loaded = library.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad file
        raise ValueError(
            f"{path}: not a PyTorch file of plain tensors ({type(error).__name__}). "
            "Expected what torch.save(model.state_dict(), …) writes."
        ) from error
    for key in _WITHIN:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(t, library.Tensor) for t in loaded.values()
    ):
        raise ValueError(
            f"{path}: holds a {type(loaded).__name__}, expected a state dict, names to "
            "tensors. Save model.state_dict() instead."
        )
    return {name: t.float().numpy() for name, t in loaded.items()}


def torch(purpose: str) -> Any:
    """PyTorch, or one line that says what it is needed for."""
    try:
        import torch as library
    except ImportError as error:
        raise ValueError(
            f"{purpose} needs PyTorch, which is not installed. Run pip install torch."
        ) from error
    return library


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise ValueError(
            f"{path}: there is no such file. Pass a weights file, or a folder with one."
        )
    for name in _IN_FOLDER:
        if (path / name).is_file():
            return path / name
        if (path / f"{name}.index.json").is_file():
            raise ValueError(
                f"{path}: the weights are in several pieces, which are not read. Join "
                "them: AutoModel.from_pretrained(…).save_pretrained(…, "
                "max_shard_size='100GB')."
            )
    raise ValueError(
        f"{path}: a folder without {' or '.join(_IN_FOLDER)}. Pass the file itself."
    )


def _config(path: Path) -> Mapping[str, Any] | None:
    beside = path.parent / "config.json"
    if not beside.is_file():
        return None
    try:
        config = json.loads(beside.read_text())
    except ValueError as error:
        raise ValueError(
            f"{beside}: not JSON ({error}). Get it again, or move it away and pass "
            "--encoder and --image_size."
        ) from error
    return config if isinstance(config, dict) else None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return {
            name: _single(array)
            for name, array in safetensors.numpy.load_file(path).items()
        }
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: a damaged safetensors file, or of a type that NumPy lacks "
            f"({error}). Get it again."
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: _single(archive[name]) for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: a damaged .npz file, or one that holds more than arrays "
            f"({error}). Get it again."
        ) from error


def _single(array: np.ndarray) -> np.ndarray:
    """float32, whatever float it was; NumPy stores bfloat16 as two nameless bytes."""
    if array.dtype == np.dtype("V2"):
        array = array.view(ml_dtypes.bfloat16)
    return np.asarray(array, np.float32)
