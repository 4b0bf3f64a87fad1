"""Lines of a run, and on a terminal one that is rewritten in place."""

import shutil
import sys
import time
from pathlib import Path

_CLEAR = "\r\x1b[K"  # back to the beginning of the line, and erase it


class Terminal:
    """Prints lines to stdout, and keeps them in a file once it is known.

    Attributes:
      live: shows a text in place of the one before, until a line is printed; None
        where stdout is not a terminal.
    """

    def __init__(self) -> None:
        self.live = self._rewrite if sys.stdout.isatty() else None
        self._shown = False
        self._path: Path | None = None
        self._early: list[str] = []

    def __call__(self, line: str) -> None:
        """Prints a line; a text of `live` gives way to it."""
        print((_CLEAR if self._shown else "") + line, flush=True)
        self._shown = False
        self.note(line)

    def keep(self, path: Path) -> None:
        """Appends the lines to a file, those before this call, too."""
        self._path = path
        early, self._early = self._early, []
        self._append("".join(early))

    def note(self, line: str) -> None:
        """Keeps a line that is printed elsewhere."""
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n"
        if self._path is None:
            self._early.append(text)
        else:
            self._append(text)

    def _append(self, text: str) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)

    def _rewrite(self, text: str) -> None:
        width = shutil.get_terminal_size().columns
        print(_CLEAR + text[: width - 1], end="", flush=True)
        self._shown = True
