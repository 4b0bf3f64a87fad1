"""Web application: static page, model description, and one endpoint for grading.

Images stay in memory, except for one temporary file while an image is decoded. No
client input is used as a path.
"""

import asyncio
import base64
import io
import re
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from fof_jax.data import images
from fof_jax.evaluation.abstention import Rule
from fof_jax.inference import model_card, visualization
from fof_jax.inference.model import has_map
from fof_jax.inference.outputs import Explanation
from fof_jax.inference.predictor import Predictor

# What `predict` reads: Pillow's limit of pixels, and such an image uncompressed.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
MAX_BYTES = 300 * 2**20
# For a page that others can reach: 5000 x 5000 pixels, and 64 tiles per image.
OPEN_MAX_BYTES, OPEN_MAX_PIXELS, _OPEN_MAX_TILES = 64 * 2**20, 25 * 10**6, 64
MIN_MARGIN = 0.2  # of the two largest probabilities; below, the page says "uncertain"
BODY_TIMEOUT = 60  # seconds for an upload
MAX_QUEUED = 8  # requests waiting for the one being computed
_SIDE = 1024  # maximum side of returned images, in pixels
_HERE = Path(__file__).parent
_MEDIA_TYPES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
}
_HEADERS = {
    # Only this page's own files and the images that it receives.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class RequestError(Exception):
    """A rejected request: HTTP status and message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


def application(
    model: Predictor,
    *,
    hosts: Sequence[str],
    rule: Rule | None = None,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    max_queued: int = MAX_QUEUED,
) -> Starlette:
    """Creates the web application.

    Args:
      model: of `load.load`.
      hosts: accepted Host headers; others are rejected, which prevents DNS rebinding.
      rule: when the page gives no grade; None: always one, "uncertain" below a margin
        of `MIN_MARGIN`.
      max_bytes: of an image file.
      max_pixels: of an image, checked from its header before decoding.
      max_queued: waiting requests; further ones get status 503 with Retry-After.
    """
    lock = asyncio.Lock()  # one image at a time, which uses the whole device
    queued = 0

    async def grade(request: Request) -> Response:
        nonlocal queued
        try:
            body = await _read_body(request, max_bytes)
            target = request.query_params.get("target") or None
            if queued > max_queued:
                raise RequestError(
                    503, "too many images at once; try again in a moment"
                )
            queued += 1
            try:
                async with lock:
                    result = await run_in_threadpool(
                        grade_image, model, body, target, max_pixels, rule
                    )
            finally:
                queued -= 1
        except RequestError as error:
            retry = {"Retry-After": "2"} if error.status == 503 else {}
            return JSONResponse(
                {"error": str(error)}, error.status, headers=_HEADERS | retry
            )
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:  # its text may have paths: it stays on the terminal
            traceback.print_exc()
            message = "the image could not be graded; the server's terminal says why"
            return JSONResponse({"error": message}, 500, headers=_HEADERS)
        return JSONResponse(result, headers=_HEADERS)

    async def about(request: Request) -> Response:
        return JSONResponse(describe(model, max_bytes, max_pixels), headers=_HEADERS)

    def file(name: str) -> Any:
        async def send(request: Request) -> Response:
            return FileResponse(
                _HERE / name, media_type=_MEDIA_TYPES[name], headers=_HEADERS
            )

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


def open_limits(model: Predictor) -> dict[str, int]:
    """Limits for a page that others can reach, which bound the time of a request."""
    side = max(model.image_size, *(model.sides or ()))
    pixels = min(OPEN_MAX_PIXELS, _OPEN_MAX_TILES * side**2)
    return {"max_bytes": OPEN_MAX_BYTES, "max_pixels": pixels}


def describe(model: Predictor, max_bytes: int, max_pixels: int) -> dict[str, Any]:
    """Description of the model, shown on the page."""
    return {
        "classes": list(model.classes),
        "folds": len(model.fold_names),
        "method": model.config.method,
        "encoder": model.config.encoder,
        "data": model.config.data.name,
        "synthetic": model.config.data.name == "phantom",
        "image_size": model.image_size,
        "card": model_card.of_model(model),
        "explains": has_map(model),
        "max_bytes": max_bytes,
        "max_pixels": max_pixels,
    }


def grade_image(
    model: Predictor,
    body: bytes,
    target: str | None,
    max_pixels: int,
    rule: Rule | None = None,
) -> dict[str, Any]:
    """Grades one image.

    Returns:
      classes, prob, spread, pred, second (the next most probable class), uncertain
      (their probabilities differ by less than min_margin), abstain (the rule gives no
      answer; null without a rule) and the image as the model
      reads it; for a model with a map also target, kept (the fraction of patches) and
      the plots. Images are data URIs.

    Raises:
      RequestError: not an image, too large, or no such class.
    """
    try:
        model.class_index(target)
        pixels = decode(body, max_pixels)
        if has_map(model):
            result = model.explain(pixels, target)
            prob, spread, read = result.prob, result.spread, result.pixels
            images_ = {"target": result.target, "kept": float(result.keep.mean())}
            images_ |= _plots(result)
            warning = result.warning
        else:
            grades = model.predict([pixels])
            prob, spread, images_ = grades.prob[0], grades.spread[0], {}
            warning = grades.warning[0]
            read = model.preprocess(pixels).pixels
    except ValueError as error:
        raise RequestError(422, _without_paths(str(error))) from None
    best, second = np.argsort(-prob, kind="stable")[:2].tolist()
    return {
        "classes": list(model.classes),
        "prob": prob.tolist(),
        "spread": spread.tolist(),
        "pred": model.classes[best],
        "second": model.classes[second],
        "uncertain": bool(prob[best] - prob[second] < MIN_MARGIN),
        "min_margin": MIN_MARGIN,
        "abstain": None if rule is None else bool(rule.abstains(prob[None])[0]),
        "warning": warning,
        "original": _data_uri(read),
        **images_,
    }


def _without_paths(message: str) -> str:
    """A message without the folders of this machine, which are nobody's business."""
    return re.sub(r"(?<![\w.])/(?:[^\s/'\"]+/)+", "", message)


def decode(body: bytes, max_pixels: int) -> Any:
    """Decodes to RGB, uint8 [H, W, 3]; the header is checked first.

    Raises:
      ValueError: not an image, an unsupported one, or too many pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(body)
        with images.quiet_decoding():
            header = images.read_header(path)
            if header.height * header.width > max_pixels:
                raise ValueError(
                    f"image of {header.width} x {header.height} pixels; expected "
                    f"{max_pixels:,} pixels or fewer"
                )
            return images.read(path)


async def _read_body(request: Request, max_bytes: int) -> bytes:
    too_large = RequestError(413, f"more than {max_bytes:,} bytes; send a smaller file")
    if request.headers.get("sec-fetch-site", "same-origin") not in (
        "same-origin",
        "none",
    ):
        raise RequestError(403, "cross-site request; use the page itself")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > max_bytes:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise RequestError(408, f"the upload took more than {BODY_TIMEOUT} s") from None
    if not size:
        raise RequestError(422, "no bytes; send an image file as the body")
    return b"".join(parts)


def _plots(result: Explanation) -> dict[str, str]:
    plots = {
        "overlay": visualization.overlay(result.pixels, result.A),
        "patches": visualization.masked(result.pixels, result.keep, patch=result.patch),
    }
    return {name: _data_uri(pixels) for name, pixels in plots.items()}


def _data_uri(pixels: Any) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
