"""Web application: static page, model description, endpoints for images and slides.

Images stay in memory, except for one temporary file while an image is decoded. No
client input is used as a path; slides are those that one folder lists.
"""

import csv
import dataclasses
import functools
import io
import traceback
from collections.abc import Awaitable, Callable, Sequence
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

from fof_jax.evaluation.abstention import Rule
from fof_jax.inference import model_card
from fof_jax.inference.image_scale import TRAINING_MPP
from fof_jax.inference.inputs import MPP_RANGE
from fof_jax.inference.model import has_map
from fof_jax.inference.predictor import Predictor, longest_side
from fof_jax.inference.serve import results
from fof_jax.inference.serve.access import RequireToken, slides_in
from fof_jax.inference.serve.queue import Queue
from fof_jax.inference.serve.uploads import (
    RequestError,
    Upload,
    declared_bytes,
    discard_body,
    files_of,
    is_form,
    json_of,
    read_body,
)

# What `predict` reads: Pillow's limit of pixels, and such an image uncompressed.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
MAX_BYTES = 300 * 2**20
# For a page that others can reach: 5000 x 5000 pixels, and 64 tiles per image.
OPEN_MAX_BYTES, OPEN_MAX_PIXELS, _OPEN_MAX_TILES = 64 * 2**20, 25 * 10**6, 64
_MAX_JSON = 10_000  # bytes of a request that names a slide
MAX_QUEUED = 8  # requests waiting for the one being computed
HELD_BODIES = 2  # bodies of the largest size that all requests together may have
_HERE = Path(__file__).parent
_MEDIA_TYPES = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "results.js": "text/javascript",
}
_OPEN_PATHS = ("/", "/healthz", *(f"/{name}" for name in _MEDIA_TYPES))
_HEADERS = {
    # Only this page's own files and the images that it receives.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

Handler = Callable[[Request], Awaitable[Response]]


@dataclasses.dataclass(frozen=True)
class Options:
    """Of an application.

    Attributes:
      hosts: accepted Host headers; others are rejected, which prevents DNS rebinding.
      rule: when the page gives no grade; None: always one, "uncertain" below a margin
        of `results.MIN_MARGIN`.
      token: that requests have to send; "" for none.
      slides: folder whose slides may be graded; None for none.
      mpp: micrometers per pixel of the training images, for slides.
      max_bytes: of a request; all that are held have `HELD_BODIES` times as many.
      max_pixels: of an image, checked from its header before decoding.
      max_queued: waiting requests; further ones get status 503 with Retry-After.
    """

    hosts: Sequence[str]
    rule: Rule | None = None
    token: str = ""
    slides: Path | None = None
    mpp: float = TRAINING_MPP
    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    max_queued: int = MAX_QUEUED


def application(model: Predictor, options: Options) -> Starlette:
    """Creates the web application of a model of `load.load`."""
    handlers = _Handlers(model, options)
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(options.hosts))]
    if options.token:
        middleware.append(
            Middleware(RequireToken, token=options.token, open_paths=_OPEN_PATHS)
        )
    return Starlette(
        routes=[
            Route("/", _file("page.html")),
            *(Route(f"/{name}", _file(name)) for name in _MEDIA_TYPES),
            Route("/healthz", handlers.health),
            Route("/about", handlers.about),
            Route("/grade", _answering(handlers.grade), methods=["POST"]),
            Route("/slides", _answering(handlers.slides)),
            Route("/slide", _answering(handlers.slide), methods=["POST"]),
        ],
        middleware=middleware,
    )


class _Handlers:
    """Answers of the endpoints."""

    def __init__(self, model: Predictor, options: Options):
        self._model, self._options = model, options
        self._queue = Queue(options.max_queued, HELD_BODIES * options.max_bytes)

    async def health(self, request: Request) -> Response:
        """200 while the server answers; the model is loaded before it starts."""
        return JSONResponse({"status": "ok"}, headers=_HEADERS)

    async def about(self, request: Request) -> Response:
        return JSONResponse(describe(self._model, self._options), headers=_HEADERS)

    async def grade(self, request: Request) -> Response:
        """One image as the body, or a form of several; JSON, or a table."""
        target = request.query_params.get("target") or None
        as_table = request.query_params.get("format") == "csv"
        most, found = self._options.max_bytes, []
        async with self._queue.place(declared_bytes(request, most)):
            for upload in files_of(request, await read_body(request, most)):
                try:
                    found.append(await self._grade(upload, target))
                except RequestError as error:
                    if not (is_form(request) or as_table):
                        raise
                    found.append(self._failed(upload, error))
        if as_table:
            header = results.columns(self._model, self._options.rule)
            text = _csv([header, *(one["row"] for one in found)])
            return Response(text, media_type="text/csv", headers=_HEADERS)
        answer = {"results": found} if is_form(request) else found[0]
        return JSONResponse(answer, headers=_HEADERS)

    async def _grade(self, upload: Upload, target: str | None) -> dict[str, Any]:
        return await self._queue.run(
            results.grade_image,
            self._model,
            upload.body,
            target,
            self._options.max_pixels,
            self._options.rule,
            upload.name,
        )

    def _failed(self, upload: Upload, error: RequestError) -> dict[str, Any]:
        row = results.failed_row(
            self._model, upload.name, str(error), self._options.rule
        )
        return {"name": upload.name, "error": str(error), "row": row}

    async def slides(self, request: Request) -> Response:
        """Names of the slides that may be graded."""
        return JSONResponse({"slides": list(await self._listed())}, headers=_HEADERS)

    async def slide(self, request: Request) -> Response:
        """A slide of the list, named in a JSON body."""
        asked = json_of(await read_body(request, _MAX_JSON))
        name, mpp = asked.get("path"), asked.get("mpp")
        listed = await self._listed()
        if not isinstance(name, str) or name not in listed:
            raise RequestError(404, "no such slide; GET /slides lists them")
        low, high = MPP_RANGE
        if mpp is not None and not (
            isinstance(mpp, int | float) and low <= mpp <= high
        ):
            raise RequestError(
                422, f"mpp: expected micrometers per pixel, {low:g} to {high:g}"
            )
        grade = functools.partial(
            results.grade_slide,
            self._model,
            listed[name],
            name,
            mpp=self._options.mpp,
            slide_mpp=mpp,
            rule=self._options.rule,
        )
        async with self._queue.place():
            return JSONResponse(await self._queue.run(grade), headers=_HEADERS)

    async def _listed(self) -> dict[str, Path]:
        folder = self._options.slides
        if folder is None:
            return {}
        longest = longest_side(self._model)
        return await run_in_threadpool(slides_in, folder, longest)


def _answering(handler: Handler) -> Handler:
    """A handler whose errors become answers; text of others stays on the terminal."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except RequestError as error:
            await discard_body(request, MAX_BYTES)
            retry = {"Retry-After": "2"} if error.status == 503 else {}
            return JSONResponse(
                {"error": str(error)}, error.status, headers=_HEADERS | retry
            )
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:  # its text may have paths
            traceback.print_exc()
            message = "the image could not be graded; the server's terminal says why"
            return JSONResponse({"error": message}, 500, headers=_HEADERS)

    return answer


def _file(name: str) -> Handler:
    async def send(request: Request) -> Response:
        return FileResponse(
            _HERE / name, media_type=_MEDIA_TYPES[name], headers=_HEADERS
        )

    return send


def _csv(rows: Sequence[Sequence[str]]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def open_limits(model: Predictor) -> dict[str, int]:
    """Limits for a page that others can reach, which bound the time of a request."""
    side = longest_side(model)
    pixels = min(OPEN_MAX_PIXELS, _OPEN_MAX_TILES * side**2)
    return {"max_bytes": OPEN_MAX_BYTES, "max_pixels": pixels}


def describe(model: Predictor, options: Options) -> dict[str, Any]:
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
        "slides": options.slides is not None,
        "columns": results.columns(model, options.rule),
        "max_bytes": options.max_bytes,
        "max_pixels": options.max_pixels,
    }
