"""Command-line entry point: dispatches commands, sets exit codes, reports errors.

Each command is a module of this package with `add_flags(parser)` and `run(flags) ->
exit code`, imported only when it is used.
"""

import argparse
import difflib
import gc
import importlib
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence

import fof_jax
from fof_jax.cli import compiled, config
from fof_jax.data.errors import DataWarning
from fof_jax.training import backend_error
from fof_jax.training.preemption import Stopped

# Command -> (module, summary in one line).
COMMANDS = {
    "train": ("fof_jax.cli.train", "train and test every fold of a configuration"),
    "eval": ("fof_jax.cli.eval", "recompute all metrics from predictions.csv files"),
    "compare": ("fof_jax.cli.compare", "train the paper's rows alike and compare them"),
    "cost": ("fof_jax.cli.cost", "measure parameters, FLOPs, time and memory"),
    "parity": ("fof_jax.cli.parity", "compare with recordings or the authors' code"),
    "import": ("fof_jax.cli.import_", "import pretrained weights"),
    "export": ("fof_jax.cli.export", "export a model to another format"),
    "report": ("fof_jax.cli.report", "write an HTML report of a run"),
    "predict": ("fof_jax.cli.predict", "grade images and whole slides"),
    "explain": ("fof_jax.cli.explain", "write class activation maps"),
    "focus": ("fof_jax.cli.focus", "score maps against masks of the structures"),
    "features": ("fof_jax.cli.features", "write features of tiles as HDF5 files"),
    "probe": ("fof_jax.cli.probe", "logistic regression on stored features"),
    "serve": ("fof_jax.cli.serve", "serve a web page that grades images"),
    "doctor": ("fof_jax.cli.doctor", "check whether this machine can run a config"),
    "configs": ("fof_jax.cli.configs", "list the configurations"),
    "config": ("fof_jax.cli.config_show", "show a configuration's fields: config show"),
    "data": ("fof_jax.cli.data", "build, check, split or preview a dataset"),
}
# Commands that compile programs worth keeping.
COMPILING = {
    *("train", "compare", "cost", "parity", "export", "report", "predict"),
    *("explain", "focus", "serve", "doctor", "data", "features"),
}
BAD_INPUT, NON_FINITE, LOST, INTERRUPTED, PIPE_CLOSED = 2, 3, 4, 130, 141
# Messages and help texts are written for this program; see `_for_program`.
LAUNCH = "python launch.py"
_UNKNOWN = "unrecognized arguments: "  # of argparse, as the next
_CHOICE = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)")


class _Parser(argparse.ArgumentParser):
    """Reports errors as one message, without the usage block before it."""

    def error(self, message: str):
        """Raises instead of exiting: `main` sets the exit code."""
        hint = ""
        if message.startswith(_UNKNOWN):
            words = message.removeprefix(_UNKNOWN).split()
            known = list(self._option_string_actions)
            hints = (_close(word.partition("=")[0], known) for word in words)
            hint = next(filter(None, hints), "")
        elif chosen := re.search(
            r"invalid choice: '(.*?)' \(choose from (.*)\)", message
        ):
            hint = _close(chosen[1], re.findall(r"[\w-]+", chosen[2]))
        raise ValueError(f"{self.prog}: {message}.{hint} See {self.prog} --help.")


def main(argv: Sequence[str], program: str = LAUNCH) -> int:
    """Runs one command.

    Args:
      argv: command-line arguments after the program's name.
      program: how the program was started, for messages and help texts.

    Returns:
      Exit code: 0 success; 1 a comparison or a check failed; 2 bad input; 3 non-finite
      values; 4 another process of the run was lost; 130 interrupted; 141 the reader of
      the output has ended; 143 terminated by SIGTERM.
    """
    code = _run(list(argv), program)
    # Only imported in commands that may run in several processes.
    if code and (multihost := sys.modules.get("fof_jax.training.multihost")):
        multihost.exit_now(code)
    return code


def run() -> None:
    """Console script `fof`."""
    sys.exit(main(sys.argv[1:], program="fof"))


def _run(words: list[str], program: str) -> int:
    # Silences Orbax's messages about metadata files that our checkpoints do not use.
    logging.getLogger("absl").setLevel(logging.ERROR)
    _print_any_name()
    # Imports and traces make many objects and little garbage: with Python's own
    # thresholds a seventh of a short command is garbage collection.
    gc.set_threshold(100_000, 20, 20)
    if words[:1] in (["--help"], ["-h"], ["help"]) and len(words) > 1:
        words = [words[1], "--help"]
    if not words or words[0] in ("--help", "-h", "help"):
        print(_overview(program))
        return 0
    if words[:1] == ["--version"]:
        print(f"fof-jax {fof_jax.__version__}")
        return 0
    command = words.pop(0) if words and not words[0].startswith("-") else "train"
    try:
        if command not in COMMANDS:
            raise ValueError(
                f"unknown command {command!r}.{_close(command, list(COMMANDS))} "
                f"Expected one of {', '.join(COMMANDS)}, or flags only for train."
            )
        module = importlib.import_module(COMMANDS[command][0])
        parser = _Parser(
            prog=f"{program} {command}",
            description=_for_program(module.__doc__ or "", program),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_flags(parser)
        if command in COMPILING:
            compiled.add_flag(parser)
        config_words, words = config.separate(words)
        flags = parser.parse_args(words)
        flags.config_words, flags.program = config_words, program
        with warnings.catch_warnings():
            # Each data warning once, as one line without file name and source.
            warnings.simplefilter("once", DataWarning)
            warnings.showwarning = _show_warning
            if command in COMPILING:
                compiled.use(flags.compiled)
            _download(command, flags)
            return module.run(flags)
    except SystemExit as leaving:  # --help of a command
        return int(leaving.code or 0)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    except Stopped as stopped:
        print(f"{stopped}; run the same command again to resume", file=sys.stderr)
        return stopped.code
    except FloatingPointError as error:  # NonFiniteError, or JAX's under debug.nans
        print(f"not finite: {error}", file=sys.stderr)
        return NON_FINITE
    except BrokenPipeError:  # the reader of the output has ended, as in | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except ConnectionError as error:
        print(f"lost: {error}", file=sys.stderr)
        return LOST
    except (RuntimeError, AssertionError) as error:
        no_backend = backend_error.message(error)
        if no_backend is None or os.environ.get("FOF_TRACEBACK"):
            raise
        print(f"error: {no_backend}", file=sys.stderr)
        return BAD_INPUT
    except (ValueError, OSError) as error:
        if os.environ.get("FOF_TRACEBACK"):
            raise
        print(f"error: {_for_program(str(error), program)}", file=sys.stderr)
        return BAD_INPUT


def _download(command: str, flags: argparse.Namespace) -> None:
    """Replaces an hf: address in --checkpoint by the path of its files here."""
    checkpoint = getattr(flags, "checkpoint", None)
    if checkpoint is None or not str(checkpoint).startswith("hf:"):
        return
    if getattr(flags, "out", checkpoint) is None:
        raise ValueError(
            f"{command}: --checkpoint={checkpoint} has no folder here for the output. "
            "Pass --out."
        )
    from fof_jax.inference import hub

    flags.checkpoint = hub.local(checkpoint)


def _print_any_name() -> None:
    """Prints what the terminal cannot show as escapes: file names may be any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _close(word: str, known: Sequence[str]) -> str:
    """A sentence with the closest known word; "" if there is none."""
    matches = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


def _for_program(text: str, program: str) -> str:
    """Rewrites the commands in a text for the program that was started.

    Outside a checkout there is no folder `configs`: configurations go by name there.
    """
    if program == LAUNCH:
        return text
    text = re.sub(r"--config=configs/(\w+)\.py", r"--config=\1", text)
    return text.replace(LAUNCH, program)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    text = f"warning: {message}\n"
    if not issubclass(category, DataWarning):
        text = warnings.formatwarning(message, category, filename, lineno, line)
    print(text, end="", file=file or sys.stderr)


def _overview(program: str) -> str:
    lines = [f"  {name:8} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            f"{program} [COMMAND] FLAGS    default command: train",
            "",
            *lines,
            "",
            f"{program} help COMMAND       flags of a command, with examples",
            f"{program} --version          version of fof-jax",
        ]
    )
