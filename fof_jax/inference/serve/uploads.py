"""Reads the body of a request within limits: one image, a form of several, or JSON."""

import asyncio
import contextlib
import dataclasses
import email.parser
import email.policy
import json
from collections.abc import Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request

from fof_jax.inference.names import printable

BODY_TIMEOUT = 60  # seconds for an upload
PAUSE_TIMEOUT = 10  # seconds without a byte of it, while it keeps others waiting
_DISCARD_TIMEOUT = 10  # seconds, of a refused one
MAX_FILES = 100  # of a form
_UNNAMED = "image"


class RequestError(Exception):
    """A rejected request: HTTP status and message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclasses.dataclass(frozen=True)
class Upload:
    """One uploaded file.

    Attributes:
      name: as the client calls it, printable; never used as a path.
      body: its bytes.
    """

    name: str
    body: bytes


def declared_bytes(request: Request, max_bytes: int) -> int:
    """Bytes that the body of a request may have; checked before it is read.

    Returns:
      The declared length, or `max_bytes` without one.

    Raises:
      RequestError: from another site, or too large.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in (
        "same-origin",
        "none",
    ):
        raise RequestError(403, "cross-site request; use the page itself")
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        return max_bytes
    if int(length) > max_bytes:
        raise _too_large(max_bytes)
    return int(length)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request of the page itself, or of a program.

    Raises:
      RequestError: as `declared_bytes`; too slow, or empty.
    """
    declared_bytes(request, max_bytes)
    parts, size = [], 0
    clock = asyncio.get_running_loop().time
    end = clock() + BODY_TIMEOUT
    try:
        async with asyncio.timeout(PAUSE_TIMEOUT) as limit:
            async for part in request.stream():
                limit.reschedule(min(end, clock() + PAUSE_TIMEOUT))
                size += len(part)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                parts.append(part)
    except TimeoutError:
        raise RequestError(
            408,
            f"the upload took more than {BODY_TIMEOUT} s, or paused for "
            f"{PAUSE_TIMEOUT} s; send it again, or a smaller file",
        ) from None
    if not size:
        raise RequestError(422, "no bytes; send an image file as the body")
    return b"".join(parts)


async def discard_body(request: Request, max_bytes: int) -> None:
    """Reads what a refused client still sends, without keeping it.

    Clients that send the whole body before they read would else find the connection
    reset, and no answer. Ends after `max_bytes`, or ten seconds.
    """
    size = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_DISCARD_TIMEOUT):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    return


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(413, f"more than {max_bytes:,} bytes; send a smaller file")


def is_form(request: Request) -> bool:
    """Whether the body is a form, multipart/form-data."""
    return request.headers.get("content-type", "").startswith("multipart/form-data")


def files_of(request: Request, body: bytes) -> Sequence[Upload]:
    """The files of a body: the body itself, named by `?name=`, or those of a form.

    Raises:
      RequestError: a form that is not one, without files, or with too many.
    """
    if not is_form(request):
        name = request.query_params.get("name") or _UNNAMED
        return [Upload(printable(name), body)]
    files = parse_form(request.headers["content-type"], body)
    if not 0 < len(files) <= MAX_FILES:
        raise RequestError(
            422, f"a form with {len(files)} files; expected 1 to {MAX_FILES}"
        )
    return files


def parse_form(content_type: str, body: bytes) -> list[Upload]:
    """The parts of multipart/form-data (RFC 7578) that have a file name, in order.

    Raises:
      RequestError: no boundary, or a part without an end of its header.
    """
    parser = email.parser.BytesHeaderParser(policy=email.policy.HTTP)
    boundary = parser.parsebytes(
        b"content-type: " + content_type.encode("latin-1", "replace")
    ).get_boundary()
    if not boundary:
        raise RequestError(422, "a form without a boundary in its Content-Type")
    delimiter = b"\r\n--" + boundary.encode("latin-1")
    parts = []
    # What precedes the first delimiter and follows the last one is no part.
    for part in (b"\r\n" + body).split(delimiter)[1:]:
        if part.startswith(b"--"):
            break
        head, separator, content = part.partition(b"\r\n\r\n")
        if not separator:
            raise RequestError(422, "a form with a part that does not end")
        name = parser.parsebytes(head.lstrip(b" \t\r\n")).get_filename()
        if name is not None:
            parts.append(Upload(printable(name) or _UNNAMED, content))
    else:
        raise RequestError(422, "a form that does not end; it was cut off")
    return parts


def json_of(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
      RequestError: it is something else.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError(422, "the body is no JSON object")
    return value
