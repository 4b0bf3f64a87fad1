"""Lines of a run, and on a terminal one that is rewritten in place."""

import shutil
import sys

_CLEAR = "\r\x1b[K"  # back to the beginning of the line, and erase it


class Terminal:
    """Prints lines to stdout.

    Attributes:
      live: shows a text in place of the one before, until a line is printed; None
        where stdout is not a terminal.
    """

    def __init__(self) -> None:
        self.live = self._rewrite if sys.stdout.isatty() else None
        self._shown = False

    def __call__(self, line: str) -> None:
        """Prints a line; a text of `live` gives way to it."""
        print((_CLEAR if self._shown else "") + line, flush=True)
        self._shown = False

    def _rewrite(self, text: str) -> None:
        width = shutil.get_terminal_size().columns
        print(_CLEAR + text[: width - 1], end="", flush=True)
        self._shown = True
