"""Models on the Hugging Face Hub: addresses hf:OWNER/NAME[@REVISION][/FOLDER].

`huggingface_hub` does the transfer and is optional. HF_ENDPOINT, HF_TOKEN and HF_HOME
are its variables for another server, the account and the cache.
"""

import os
import re
from pathlib import Path
from typing import Any

PREFIX, SUFFIX = "hf:", ".fof"  # of an address; of an exported file
_ADDRESS = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<inside>.+))?"
)


def is_address(path: str | Path) -> bool:
    """Whether a path is an address of the hub."""
    return str(path).startswith(PREFIX)


def local(path: str | Path) -> Path:
    """A path on this machine, of a model that is downloaded if it is an address.

    Files that are in the cache are not downloaded again.

    Args:
      path: a path, which is returned as it is; or hf:OWNER/NAME, with @REVISION for a
        branch, tag or commit, and /FOLDER for a folder or a file of the repository.

    Raises:
      ValueError: the address is not valid, huggingface_hub is not installed, the hub
        refuses, or the repository has no such folder, or several exported files.
    """
    if not is_address(path):
        return Path(path)
    repo, revision, inside = _parse(str(path))
    hub = _library()
    patterns = [inside, f"{inside}/*"] if inside else None
    try:
        folder = Path(
            hub.snapshot_download(
                repo, revision=revision, allow_patterns=patterns, endpoint=_endpoint()
            )
        )
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise _refused(str(path), error) from error
    place = folder / inside if inside else folder
    if not place.exists():
        raise ValueError(
            f"checkpoint: {path}: {repo} has no {inside}. Expected a folder or a file "
            "of the repository."
        )
    exported = sorted(place.glob(f"*{SUFFIX}")) if place.is_dir() else []
    if len(exported) > 1:
        raise ValueError(
            f"checkpoint: {path} has {', '.join(one.name for one in exported)}; "
            f"expected one exported file. Pass {path}/{exported[0].name}."
        )
    # A repository with one exported file is that model.
    return exported[0] if len(exported) == 1 else place


def push(address: str, path: Path, card: str) -> str:
    """Uploads an exported model with its card; the repository is made if needed.

    Args:
      address: hf:OWNER/NAME.
      path: a file, or a folder whose content becomes the repository's.
      card: content of the repository's README.md.

    Returns:
      Where the commit is.

    Raises:
      ValueError: as `local`; or the address has a revision or a folder.
    """
    repo, revision, inside = _parse(address)
    if revision or inside:
        raise ValueError(
            f"export: --push={address} names a revision or a folder; expected "
            f"--push=hf:{repo}."
        )
    hub = _library()
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    base = path.parent if path.is_file() else path
    adds = [
        hub.CommitOperationAdd(file.relative_to(base).as_posix(), file)
        for file in sorted(files)
        if file.relative_to(base).as_posix() != "README.md"
    ]
    adds.append(hub.CommitOperationAdd("README.md", card.encode()))
    api = hub.HfApi(endpoint=_endpoint(), library_name="fof-jax")
    try:
        api.create_repo(repo, exist_ok=True)
        made = api.create_commit(repo, adds, commit_message=f"Upload {path.name}")
    except (hub.errors.HfHubHTTPError, OSError, ValueError) as error:
        raise _refused(address, error) from error
    return str(made.commit_url)


def name_of(address: str) -> str:
    """OWNER/NAME of an address.

    Raises:
      ValueError: it is not valid.
    """
    return _parse(address)[0]


def _parse(address: str) -> tuple[str, str | None, str | None]:
    match = _ADDRESS.fullmatch(address)
    inside = match["inside"] if match else None
    if match is None or ".." in (inside or "").split("/"):
        raise ValueError(
            f"{address!r} is no address of the hub; expected hf:OWNER/NAME, "
            "hf:OWNER/NAME@REVISION or hf:OWNER/NAME/FOLDER."
        )
    return match["repo"], match["revision"], inside


def _endpoint() -> str | None:
    """Read at each call: huggingface_hub reads it once, on import."""
    return os.environ.get("HF_ENDPOINT")


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ValueError(
            "hf: addresses require huggingface_hub, which is not installed. "
            "pip install 'fof-jax[hub]'"
        ) from error
    return huggingface_hub


def _refused(address: str, error: Exception) -> ValueError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:3]) or type(error).__name__
    return ValueError(
        f"{address}: the hub gave no answer or refused: {reason} Check the name, "
        "HF_TOKEN and the connection."
    )
