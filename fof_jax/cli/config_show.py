"""Show every field of a configuration, what it means, and what differs from gbmlgg.

python launch.py config show phantom:baseline
python launch.py config show configs/cohort.py --changed
python launch.py config show phantom --config.batch_size=8
"""

import argparse
import textwrap

from ml_collections import ConfigDict

from fof_jax.cli import config as config_flag
from fof_jax.cli.config_source import docstring, field_comments

REFERENCE = "gbmlgg"
_WIDTH = 88


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the action, the config and --changed."""
    parser.add_argument("action", choices=("show",))
    parser.add_argument("name", metavar="NAME[:ARGUMENT]", help="a config, or its path")
    parser.add_argument(
        "--changed", action="store_true", help=f"only what differs from {REFERENCE}"
    )
    parser.add_argument(
        "--config.FIELD", dest="config_field", metavar="VALUE", help="override a field"
    )


def run(flags: argparse.Namespace) -> int:
    """Prints the config's docstring, then its fields."""
    name, _, _ = flags.name.partition(":")
    config = config_flag.load([f"--config={flags.name}", *flags.config_words])
    reference = config_flag.load([f"--config={REFERENCE}"])
    path = config_flag.path_of(name)
    meanings = field_comments(config_flag.path_of(REFERENCE))
    comments = field_comments(path)
    print(docstring(path))
    print(
        f"\nFields; pass --config.FIELD=VALUE. * differs from {REFERENCE}.\n"
        "[n] changes results and is fixed for a workdir.\n"
    )
    for line in describe(config, reference, meanings, comments, changed=flags.changed):
        print(line)
    return 0


def describe(
    config: ConfigDict,
    reference: ConfigDict,
    meanings: dict[str, str],
    own: dict[str, str],
    *,
    changed: bool = False,
) -> list[str]:
    """Lines about each field: its comment, its value, the reference's if it differs.

    Args:
      config: whose fields are described.
      reference: values to compare with.
      meanings: comments of the reference's file, see `field_comments`.
      own: comments of the config's file, shown where a value differs.
      changed: whether fields equal to the reference's are left out.

    Returns:
      lines of text.
    """
    theirs = {n: value_of(reference, n) for n in config_flag.field_names(reference)}
    lines: list[str] = []
    for name in config_flag.field_names(config):
        value = value_of(config, name)
        differs = name not in theirs or theirs[name] != value
        if changed and not differs:
            continue
        comments = [meanings.get(name), own.get(name) if differs else None]
        for comment in dict.fromkeys(filter(None, comments)):
            lines += textwrap.wrap(
                comment, _WIDTH, initial_indent="    # ", subsequent_indent="    # "
            )
        note = ""
        if differs:
            note = f"    ({REFERENCE}: {theirs[name]!r})" if name in theirs else (
                f"    (not in {REFERENCE})"
            )  # fmt: skip
        lines.append(f"{'  * ' if differs else '    '}{name} = {value!r}{note}")
    missing = [name for name in theirs if name not in config_flag.field_names(config)]
    if missing:
        lines += ["", f"Fields of {REFERENCE} that this config does not have:"]
        lines += textwrap.wrap(
            ", ".join(missing), _WIDTH, initial_indent="    ", subsequent_indent="    "
        )
    return lines


def value_of(config: ConfigDict, name: str) -> object:
    """The value of a field by its dotted name; None where it is unset."""
    value = config
    for part in name.split("."):
        value = value[part]
    return value
