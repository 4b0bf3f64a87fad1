"""Image files that the cohort reader must reject, with the kind of error."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.cohort_files import pixels


def _truncated(path: Path, suffix: str) -> None:
    Image.fromarray(pixels(0, 64, 64)).save(path.with_suffix(suffix))
    data = path.with_suffix(suffix).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _flipped(path: Path) -> None:
    Image.fromarray(pixels(0, 64, 64)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _sixteen_bit_rgb(path: Path) -> None:
    # Encoded here, because PIL cannot save 16-bit RGB and truncates it when opening.

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    lines = b"".join(b"\0" + bytes(4 * 6) for _ in range(4))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def _pages(path: Path) -> None:
    first = Image.fromarray(pixels(0))
    first.save(path, "TIFF", save_all=True, append_images=[Image.fromarray(pixels(1))])


BAD_IMAGES = {
    "truncated PNG": (lambda p: _truncated(p, ".png"), "unreadable image"),
    "truncated JPEG": (lambda p: _truncated(p, ".jpeg"), "unreadable image"),
    "truncated TIFF": (lambda p: _truncated(p, ".tiff"), "unreadable image"),
    "one bit flipped": (_flipped, "unreadable image"),
    "empty file": (lambda p: p.write_bytes(b""), "unreadable image"),
    "16-bit gray": (
        lambda p: Image.fromarray(np.zeros((4, 4), np.uint16)).save(p),
        "unsupported channels",
    ),
    "16-bit RGB": (_sixteen_bit_rgb, "unsupported channels"),
    "CMYK": (
        lambda p: Image.fromarray(pixels(0)).convert("CMYK").save(p, "TIFF"),
        "unsupported channels",
    ),
    "palette": (
        lambda p: Image.fromarray(pixels(0)).convert("P").save(p),
        "unsupported channels",
    ),
    "one bit": (
        lambda p: Image.fromarray(pixels(0)).convert("1").save(p),
        "unsupported channels",
    ),
    "float": (
        lambda p: Image.fromarray(np.zeros((4, 4), np.float32)).save(p, "TIFF"),
        "unsupported channels",
    ),
    "two pages": (_pages, "several pages"),
    "BMP": (
        lambda p: Image.fromarray(pixels(0)).save(p, "BMP"),
        "unsupported image format",
    ),
}
