"""The page and the one thing that it asks: an image's bytes in, grade and map out.

Images stay in memory, but for one temporary file while an image is decoded. Nothing
that a client sends becomes a path.
"""

import asyncio
import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from fof_jax.data import images
from fof_jax.inference import model_card, visualization
from fof_jax.inference.model import Model
from fof_jax.inference.outputs import Focus

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 25 * 10**6  # 5000 x 5000
MAX_TILES = 64  # of the model's size, side by side: minutes on a slow machine
BODY_SECONDS = 60  # in which a file has to arrive
WAITING = 8  # requests that may wait for the one that is computed
_SIDE = 1024  # of the pictures that are sent back, pixels at most
_HERE = Path(__file__).parent
_KINDS = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
}
_HEADERS = {
    # Nothing but this page's own files, and the pictures that it is sent.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that gets no grade: its HTTP status, and why."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status = status


def application(
    model: Model,
    *,
    hosts: Sequence[str],
    max_bytes: int = MAX_BYTES,
    max_pixels: int | None = None,
    waiting: int = WAITING,
) -> Starlette:
    """The web application.

    Args:
      model: of `loading.load`.
      hosts: names under which the page may be asked for; another is refused, so that
        a foreign page cannot have its own name resolve to this machine.
      max_bytes: of an image file.
      max_pixels: of an image, read from its head before it is decoded; None takes
        `pixel_limit`.
      waiting: images that may wait; more are told to come again.
    """
    most = pixel_limit(model) if max_pixels is None else max_pixels
    turn = asyncio.Lock()  # one image at a time: the model fills the machine
    queued = 0

    async def grade(request: Request) -> Response:
        nonlocal queued
        try:
            body = await _body(request, max_bytes)
            target = request.query_params.get("target") or None
            if queued > waiting:
                raise Refused(503, "too many images at once; try again in a moment")
            queued += 1
            try:
                async with turn:
                    found = await run_in_threadpool(answer, model, body, target, most)
            finally:
                queued -= 1
        except Refused as refused:
            again = {"Retry-After": "2"} if refused.status == 503 else {}
            return JSONResponse(
                {"error": str(refused)}, refused.status, headers=_HEADERS | again
            )
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse(found, headers=_HEADERS)

    async def about(request: Request) -> Response:
        return JSONResponse(describe(model, max_bytes, most), headers=_HEADERS)

    def file(name: str) -> Any:
        async def send(request: Request) -> Response:
            return FileResponse(_HERE / name, media_type=_KINDS[name], headers=_HEADERS)

        return send

    return Starlette(
        routes=[
            Route("/", file("page.html")),
            Route("/page.css", file("page.css")),
            Route("/page.js", file("page.js")),
            Route("/about", about),
            Route("/grade", grade, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
    )


def pixel_limit(model: Model) -> int:
    """How many pixels an image may have, so that it is graded in a while."""
    side = max(model.image_size, *(model.sides or ()))
    return min(MAX_PIXELS, MAX_TILES * side**2)


def describe(model: Model, max_bytes: int, max_pixels: int) -> dict[str, Any]:
    """What the page says of its model."""
    return {
        "classes": list(model.classes),
        "folds": len(model.folds),
        "method": model.config.method,
        "encoder": model.config.encoder,
        "data": model.config.data.name,
        "image_size": model.image_size,
        "card": model_card.of_model(model),
        "explains": model.explains,
        "max_bytes": max_bytes,
        "max_pixels": max_pixels,
    }


def answer(
    model: Model, body: bytes, target: str | None, max_pixels: int
) -> dict[str, Any]:
    """Grades one image.

    Returns:
      classes, prob, spread, pred; with a model that explains also target, kept (share
      of the patches) and the pictures.

    Raises:
      Refused: it is no image, too large, or the class does not exist.
    """
    seen: dict[str, Any] = {}
    try:
        model.index(target)
        pixels = decode(body, max_pixels)
        if model.explains:
            focus = model.explain(pixels, target)
            prob, spread = focus.prob, focus.spread
            seen = {"target": focus.target, "kept": float(focus.keep.mean())}
            seen |= _pictures(focus)
        else:
            grades = model.predict([pixels])
            prob, spread = grades.prob[0], grades.spread[0]
    except ValueError as fault:
        raise Refused(422, str(fault)) from None
    return {
        "classes": list(model.classes),
        "prob": prob.tolist(),
        "spread": spread.tolist(),
        "pred": model.classes[int(prob.argmax())],
        **seen,
    }


def decode(body: bytes, max_pixels: int) -> Any:
    """Bytes to RGB, uint8 [H, W, 3]; the head is looked at before the rest.

    Raises:
      ValueError: not an image that is accepted, or with too many pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(body)
        with images.quiet_decoding():
            head = images.read_header(path)
            if head.height * head.width > max_pixels:
                raise ValueError(
                    f"image of {head.width} x {head.height} pixels; expected "
                    f"{max_pixels:,} pixels at most"
                )
            images.check_region(path)
            return images.decode(images.encode_region(path))


async def _body(request: Request, most: int) -> bytes:
    too_large = Refused(413, f"more than {most:,} bytes; send a smaller file")
    if request.headers.get("sec-fetch-site", "same-origin") not in (
        "same-origin",
        "none",
    ):
        raise Refused(403, "this page answers itself alone")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Refused(408, f"the file took more than {BODY_SECONDS} s") from None
    if not size:
        raise Refused(422, "no bytes; send an image file as the body")
    return b"".join(parts)


def _pictures(focus: Focus) -> dict[str, str]:
    shown = {
        "overlay": visualization.overlay(focus.pixels, focus.A),
        "patches": visualization.masked(focus.pixels, focus.keep),
    }
    return {name: _uri(pixels) for name, pixels in shown.items()}


def _uri(pixels: Any) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
