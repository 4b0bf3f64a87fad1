"""Parses --config=PATH[:ARGUMENT] and --config.FIELD=VALUE to a locked ConfigDict."""

import argparse
import contextlib
import difflib
import importlib.resources
import io
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from fof_jax.configs import gbmlgg, gbmlgg_release
from fof_jax.data import labels
from fof_jax.data.errors import shortened
from fof_jax.training.run_fields import OPTIONAL_FIELDS

_OPTIONAL = {"data.seed", *OPTIONAL_FIELDS}  # read with a default


def load(words: Sequence[str]) -> ConfigDict:
    """Loads a config file and applies the overrides.

    Args:
      words: the --config arguments of a command line, and no others.

    Raises:
      ValueError: no --config, no such file, a file that does not run, no such field
        (with the closest ones), a value of the wrong type, names of classes or markers
        that cannot be used, or other arguments.
    """
    words = [resolve(word) for word in words]
    if not any(word.startswith("--config=") for word in words):
        raise ValueError(
            "no config. Pass --config=configs/NAME.py, e.g. "
            "--config=configs/phantom.py; available: " + ", ".join(packaged()) + "."
        )
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    try:
        # ml_collections reads overrides from sys.argv and nowhere else.
        with _argv(["launch.py", *words]), contextlib.redirect_stderr(io.StringIO()):
            rest = values(sys.argv)[1:]
            config = values["config"].value
    except ValueError:  # of the file itself, with a message
        raise
    except Exception as error:  # a config file is a program: anything can be raised
        path = _path_of(words)
        broken = _broken(path, error)
        raise ValueError(broken or _explain(words, error)) from error
    if rest:
        raise ValueError(f"unexpected arguments: {' '.join(rest)}")
    config = _with_all_fields(_path_of(words), config)
    _parse_none(config)
    labels.normalize(config.data)
    return config


def _broken(path: Path, error: Exception) -> str:
    """Message for a config file that does not run; "" if it is not at fault."""
    if isinstance(error, SyntaxError):
        line = error.lineno
        at_fault = Path(error.filename or "") == path
    else:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename) == path
        ]
        line, at_fault = (lines or [None])[-1], bool(lines)
    if not at_fault:
        return ""
    text = str(error).splitlines()[0] if str(error) else ""
    return (
        f"config: {path} does not run: line {line}, {type(error).__name__}: {text}. "
        "Correct the file."
    )


def _with_all_fields(path: Path, config: object) -> ConfigDict:
    """The config; raises if it lacks fields that every method has."""
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"config: get_config of {path} returns {type(config).__name__}; expected a "
            "ConfigDict. Begin with a copy of configs/gbmlgg.py."
        )
    common = [set(field_names(m.get_config())) for m in (gbmlgg, gbmlgg_release)]
    missing = sorted(set.intersection(*common) - set(field_names(config)) - _OPTIONAL)
    if missing:
        raise ValueError(
            f"config: {path} lacks the field(s) {shortened(missing)}. Add them as in "
            "configs/gbmlgg.py."
        )
    add_optional_fields(config)
    return config


def add_optional_fields(config: ConfigDict) -> None:
    """Adds the fields of `run_fields.OPTIONAL_FIELDS` that a config lacks."""
    with config.unlocked():
        for name, value in OPTIONAL_FIELDS.items():
            if name not in config:
                config[name] = value


def _path_of(words: Sequence[str]) -> Path:
    """Path of the config file in resolved arguments, without its argument."""
    value = next(w for w in words if w.startswith("--config=")).partition("=")[2]
    return Path(value.partition(":")[0])


def _parse_none(config: ConfigDict) -> None:
    """Makes --config.FIELD=None set None in string fields, as in all other fields."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _parse_none(value)
        elif value == "None":
            config[name] = None


def separate(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into --config arguments, as --FLAG=VALUE, and the rest."""
    config_words: list[str] = []
    rest: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if word.partition("=")[0] != "--config" and not word.startswith("--config."):
            rest.append(word)
        elif "=" in word or not remaining:
            config_words.append(word)
        else:
            config_words.append(f"{word}={remaining.pop(0)}")
    return config_words, rest


def name_of(words: Sequence[str]) -> str:
    """NAME[:ARGUMENT] of a config: the path's stem and the argument."""
    value = next(w for w in words if w.startswith("--config=")).partition("=")[2]
    path, colon, argument = value.partition(":")
    return f"{Path(path).stem}{colon}{argument}"


def add_help(parser: argparse.ArgumentParser) -> None:
    """Adds the config flags to the --help of a command."""
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "--config",
        metavar="PATH[:ARGUMENT]",
        help="config file, e.g. configs/phantom.py:baseline, or the name of a packaged "
        "one, e.g. phantom:baseline",
    )
    group.add_argument(
        "--config.FIELD",
        dest="config_field",
        metavar="VALUE",
        help="override one field, e.g. --config.batch_size=8",
    )


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of all fields."""
    names = []
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            names += field_names(value, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def resolve(word: str) -> str:
    """Replaces the name of a packaged config by its path."""
    flag, _, value = word.partition("=")
    if flag != "--config":
        return word
    name, colon, argument = value.partition(":")
    return f"{flag}={path_of(name)}{colon}{argument}"


def path_of(name: str) -> Path:
    """File of a config: its path, or the name of a packaged one.

    Raises:
      ValueError: neither exists.
    """
    path = Path(name)
    if not path.is_file() and path.suffix != ".py" and name in packaged():
        path = Path(str(importlib.resources.files("fof_jax.configs") / f"{name}.py"))
    if not path.exists():
        close = difflib.get_close_matches(path.stem, packaged(), n=1)
        hint = f" Did you mean {path.with_stem(close[0])}?" if close else ""
        raise ValueError(
            f"config: {name} does not exist.{hint} Pass the path of a file, or a name: "
            f"{', '.join(packaged())}."
        )
    return path


def packaged() -> list[str]:
    """Names of the configs that the package contains."""
    folder = importlib.resources.files("fof_jax.configs")
    names = sorted(entry.name for entry in folder.iterdir())
    names = [n for n in names if n.endswith(".py")]
    return [n[:-3] for n in names if "def get_config(" in (folder / n).read_text()]


@contextlib.contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = before


def _explain(words: Sequence[str], error: Exception) -> str:
    """Message for a config error: an unknown field with the closest existing ones."""
    base = [word for word in words if word.startswith("--config=")]
    overridden = [
        word.partition("=")[0].removeprefix("--config.")
        for word in words
        if word not in base
    ]
    existing = field_names(load(base)) if overridden else []
    for name in overridden:
        if name not in existing:
            close = difflib.get_close_matches(name, existing, n=3)
            leaf = name.rpartition(".")[2]
            same_leaf = [other for other in existing if other.split(".")[-1] == leaf]
            hints = list(dict.fromkeys(same_leaf + close))
            hint = f" Did you mean {' or '.join(hints)}?" if hints else ""
            return f"config: there is no field {name!r}.{hint}"
    return f"config: {str(error).splitlines()[-1]}"
