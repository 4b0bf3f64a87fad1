"""Who may use the page, and which slides: a token, and a folder."""

import hmac
from collections.abc import Sequence
from pathlib import Path

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fof_jax.inference.image_folder import list_images
from fof_jax.inference.names import printable, unique
from fof_jax.inference.slide_file import is_slide

MAX_SLIDES = 1000  # that are listed


class RequireToken:
    """Middleware: 401 without `Authorization: Bearer TOKEN`, but for some paths."""

    def __init__(self, app: ASGIApp, token: str, open_paths: Sequence[str]):
        """Wraps an application.

        Args:
          app: what is protected.
          token: that requests have to send.
          open_paths: paths that need none.
        """
        self._app, self._open = app, frozenset(open_paths)
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with 401."""
        if scope["type"] != "http" or scope["path"] in self._open:
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(sent, self._expected):
            await self._app(scope, receive, send)
            return
        answer = JSONResponse(
            {"error": "no or a wrong token; send Authorization: Bearer TOKEN"},
            401,
            headers={"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"},
        )
        await answer(scope, receive, send)


def slides_in(folder: Path, longest: int) -> dict[str, Path]:
    """The slides below a folder by name, the path relative to it.

    Only these can be asked for: a name that is not listed, such as one with "..", is
    no slide.

    Args:
      folder: searched recursively.
      longest: longest side of the training images, see `is_slide`.
    """
    paths, _ = list_images(folder)
    slides = [path for path in paths if is_slide(path, longest)][:MAX_SLIDES]
    below = [printable(path.relative_to(folder).as_posix()) for path in slides]
    return dict(zip(unique(below), slides, strict=True))
