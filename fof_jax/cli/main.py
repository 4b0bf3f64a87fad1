"""The command line: which verb, its flags, and how errors reach the terminal.

Each verb is a file of this package, imported only when it is asked for, with
`add_flags(parser)` and `run(flags) -> exit code`.
"""

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from fof_jax.cli import config
from fof_jax.data.errors import DataWarning
from fof_jax.training.preemption import Stopped

# verb -> (module, what it does in a line)
VERBS = {
    "train": ("fof_jax.cli.train", "train and test every fold of a configuration"),
    "eval": ("fof_jax.cli.eval", "compute every metric of a predictions.csv"),
    "parity": ("fof_jax.cli.parity", "compare this program with recordings, or live"),
    "import": ("fof_jax.cli.import_", "bring weights of other programs in"),
    "export": ("fof_jax.cli.export", "write a model in the form of another program"),
    "report": ("fof_jax.cli.report", "make one page about a run, and its figures"),
    "predict": ("fof_jax.cli.predict", "grade a folder of images"),
    "explain": ("fof_jax.cli.explain", "draw where a model looked"),
    "serve": ("fof_jax.cli.serve", "a web page that grades images"),
    "doctor": ("fof_jax.cli.doctor", "look whether this machine can run a config"),
    "data": ("fof_jax.cli.data", "build, check, split or look at the data"),
}
BAD_INPUT, NON_FINITE, LOST, INTERRUPTED = 2, 3, 4, 130


class _Parser(argparse.ArgumentParser):
    """Errors in one message, without the usage block before it."""

    def error(self, message: str):
        """Raises instead of leaving: `main` decides on the exit."""
        raise ValueError(f"{self.prog}: {message}. See {self.prog} --help.")


def main(argv: Sequence[str]) -> int:
    """Runs one command.

    Args:
      argv: the words after the program's name.

    Returns:
      0 done; 1 a comparison or a check failed; 2 bad input; 3 not finite; 4 another
      process of the run is lost; 130 interrupted; 143 ended by SIGTERM.
    """
    code = _code(argv)
    # Only where a run of several processes was begun is it there.
    if code and (hosts := sys.modules.get("fof_jax.training.multihost")):
        hosts.leave(code)
    return code


def _code(argv: Sequence[str]) -> int:
    words = list(argv)
    # Orbax remarks there on files of its own that our folders have no use for.
    logging.getLogger("absl").setLevel(logging.ERROR)
    verb = words.pop(0) if words and not words[0].startswith("-") else "train"
    try:
        if words[:1] in (["--help"], ["-h"]) and argv[0] == words[0]:
            print(_overview())
            return 0
        if verb == "help":
            print(_overview())
            return 0
        if verb not in VERBS:
            raise ValueError(
                f"{verb!r} is no verb. Expected one of {', '.join(VERBS)}, or flags "
                "alone for train."
            )
        module = importlib.import_module(VERBS[verb][0])
        parser = _Parser(
            prog=f"launch.py {verb}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_flags(parser)
        config_words, words = config.separate(words)
        parsed = parser.parse_args(words)
        parsed.config_words = config_words
        with warnings.catch_warnings():
            # Once each, as a line of its own: no file name, no source line.
            warnings.simplefilter("once", DataWarning)
            warnings.showwarning = _show
            return module.run(parsed)
    except SystemExit as leaving:  # --help of a verb
        return int(leaving.code or 0)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from here", file=sys.stderr)
        return stopped.code
    except FloatingPointError as error:  # ours, or JAX's under debug.nans
        print(f"not finite: {error}", file=sys.stderr)
        return NON_FINITE
    except ConnectionError as error:
        print(f"lost: {error}", file=sys.stderr)
        return LOST
    except (ValueError, OSError) as error:
        if os.environ.get("FOF_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT


def _show(message, category, filename, lineno, file=None, line=None) -> None:
    text = f"warning: {message}\n"
    if not issubclass(category, DataWarning):
        text = warnings.formatwarning(message, category, filename, lineno, line)
    print(text, end="", file=file or sys.stderr)


def run() -> None:
    """The console script `fof`."""
    sys.exit(main(sys.argv[1:]))


def _overview() -> str:
    lines = [f"  {verb:8} {what}" for verb, (_, what) in VERBS.items()]
    return "\n".join(
        [
            "python launch.py [VERB] FLAGS      the verb defaults to train",
            "",
            *lines,
            "",
            "python launch.py VERB --help       flags of a verb, with an example",
        ]
    )
