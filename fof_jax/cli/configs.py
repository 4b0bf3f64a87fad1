"""List the packaged configurations, with one line each.

python launch.py configs
python launch.py config show phantom:baseline
"""

import argparse

from fof_jax.cli import config as config_flag
from fof_jax.cli.config_source import docstring


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No flags."""
    del parser


def run(flags: argparse.Namespace) -> int:
    """Prints the first line of each configuration's docstring."""
    for name in config_flag.packaged():
        print(f"{name:16} {docstring(config_flag.path_of(name)).splitlines()[0]}")
    print(f"\nArguments and fields: {flags.program} config show NAME[:ARGUMENT]")
    return 0
