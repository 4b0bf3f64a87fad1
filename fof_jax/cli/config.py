"""--config=PATH[:ARGUMENT] and --config.FIELD=VALUE to a locked ConfigDict."""

import argparse
import contextlib
import difflib
import importlib.resources
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags


def load(words: Sequence[str]) -> ConfigDict:
    """Loads the config that some words name, with their overrides.

    Args:
      words: exactly the --config words of a command line.

    Raises:
      ValueError: no config named, no such file, no such field (with the closest
        ones), a value of another type, or words that are not of this kind.
    """
    words = [_resolved(word) for word in words]
    if not any(word.startswith("--config=") for word in words):
        raise ValueError(
            "no config. Pass --config=configs/NAME.py, e.g. "
            "--config=configs/phantom.py; there are " + ", ".join(_shipped()) + "."
        )
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    try:
        # ml_collections reads overrides from sys.argv and nowhere else.
        with _argv(["launch.py", *words]), contextlib.redirect_stderr(io.StringIO()):
            rest = values(sys.argv)[1:]
            config = values["config"].value
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        raise ValueError(_explain(words, error)) from error
    if rest:
        raise ValueError(f"words left over: {' '.join(rest)}")
    _unset(config)
    return config


def _unset(config: ConfigDict) -> None:
    """--config.FIELD=None of a field of text is None, as it is of every other kind."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _unset(value)
        elif value == "None":
            config[name] = None


def separate(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The --config words of a command line in the form --FLAG=VALUE, and the rest."""
    ours: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word.partition("=")[0] != "--config" and not word.startswith("--config."):
            rest.append(word)
        elif "=" in word or not left:
            ours.append(word)
        else:
            ours.append(f"{word}={left.pop(0)}")
    return ours, rest


def name_of(words: Sequence[str]) -> str:
    """NAME[:ARGUMENT] of the config that the words load; its path without suffix."""
    value = next(w for w in words if w.startswith("--config=")).partition("=")[2]
    path, colon, argument = value.partition(":")
    return f"{Path(path).stem}{colon}{argument}"


def describe(parser: argparse.ArgumentParser) -> None:
    """Adds the config flags to a verb's --help."""
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--config",
        metavar="PATH[:ARGUMENT]",
        help="a file such as configs/phantom.py:baseline, or its bare name",
    )
    group.add_argument(
        "--config.FIELD",
        dest="config_field",
        metavar="VALUE",
        help="sets a field of it, e.g. --config.batch_size=8",
    )


def fields(config: ConfigDict, prefix: str = "") -> list[str]:
    """Every field by its dotted name."""
    names = []
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            names += fields(value, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _resolved(word: str) -> str:
    """A bare name becomes the path of the config that is shipped under it."""
    flag, _, value = word.partition("=")
    if flag != "--config":
        return word
    name, colon, argument = value.partition(":")
    path = Path(name)
    if not path.exists() and path.suffix != ".py" and name in _shipped():
        path = Path(str(importlib.resources.files("configs") / f"{name}.py"))
    if not path.exists():
        raise ValueError(
            f"config: {name} does not exist. There are "
            + ", ".join(f"configs/{one}.py" for one in _shipped())
            + "."
        )
    return f"{flag}={path}{colon}{argument}"


def _shipped() -> list[str]:
    folder = importlib.resources.files("configs")
    names = sorted(entry.name for entry in folder.iterdir())
    return [n[:-3] for n in names if n.endswith(".py") and n != "__init__.py"]


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = before


def _explain(words: Sequence[str], error: Exception) -> str:
    base = [word for word in words if word.startswith("--config=")]
    named = [w.partition("=")[0][len("--config.") :] for w in words if w not in base]
    known = fields(load(base)) if named else []
    for name in named:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            leaf = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]]
            hints = list(dict.fromkeys(leaf + close))
            hint = f" Did you mean {' or '.join(hints)}?" if hints else ""
            return f"config: there is no field {name!r}.{hint}"
    return f"config: {str(error).splitlines()[-1]}"
