"""Check whether this machine can run a configuration; one line PASS, WARN or FAIL each.

python launch.py doctor --config=configs/phantom.py
"""

import argparse
import contextlib

from fof_jax.cli import config as config_flag


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --config, which is optional."""
    config_flag.add_help(parser)


def run(flags: argparse.Namespace) -> int:
    """Prints each finding with its remedy; 1 if any is FAIL."""
    config = config_flag.load(flags.config_words) if flags.config_words else None
    import jax

    from fof_jax.training import doctor

    if config is not None:
        # As in train. RuntimeError: JAX is initialized, and the setting has no effect.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    failed = 0
    for finding in doctor.examine(config):
        failed += finding.verdict == doctor.FAIL
        print(f"{finding.verdict}  {finding.subject}: {finding.found}", flush=True)
        if finding.remedy:
            print(f"      {finding.remedy}", flush=True)
    return 1 if failed else 0
