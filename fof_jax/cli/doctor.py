"""Look whether this machine can run a configuration: PASS, WARN or FAIL a line.

python launch.py doctor --config=configs/phantom.py
"""

import argparse
import contextlib

from fof_jax.cli import config as config_flag


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--config, which may be left out."""
    config_flag.add_help(parser)


def run(flags: argparse.Namespace) -> int:
    """Prints a line a finding, its remedy below; 1 if one is FAIL."""
    config = config_flag.load(flags.config_words) if flags.config_words else None
    import jax

    from fof_jax.training import doctor

    if config is not None:
        # As train does; devices that JAX has started already stand as they are.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    failed = 0
    for finding in doctor.examine(config):
        failed += finding.verdict == doctor.FAIL
        print(f"{finding.verdict}  {finding.subject}: {finding.found}", flush=True)
        if finding.remedy:
            print(f"      {finding.remedy}", flush=True)
    return 1 if failed else 0
