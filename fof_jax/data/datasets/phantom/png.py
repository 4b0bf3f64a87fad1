"""PNG files with the same bytes everywhere.

Compressors differ in their output between versions and processors, so the pixels are
stored uncompressed: about 3 S^2 bytes an image, little more than noisy tissue would
compress to.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

_BLOCK = 65535  # largest stored block of RFC 1951


def _chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def _stored(raw: bytes) -> bytes:
    """A zlib stream (RFC 1950) of stored blocks."""
    parts = [b"\x78\x01"]
    for start in range(0, len(raw), _BLOCK):
        piece = raw[start : start + _BLOCK]
        last = start + _BLOCK >= len(raw)
        parts.append(struct.pack("<BHH", last, len(piece), 0xFFFF - len(piece)))
        parts.append(piece)
    parts.append(struct.pack(">I", zlib.adler32(raw)))
    return b"".join(parts)


def encode(
    pixels: UInt8[np.ndarray, "height width 3"] | Bool[np.ndarray, "height width"],
) -> bytes:
    """A PNG of an RGB image (8 bits a channel) or of a mask (1 bit, True is white)."""
    height, width = pixels.shape[:2]
    if pixels.dtype == np.bool_:
        depth, colour, rows = 1, 0, np.packbits(pixels, axis=1)
    else:
        depth, colour, rows = 8, 2, pixels.reshape(height, -1)
    # Each row begins with its filter: 0, none.
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", _stored(raw))
        + _chunk(b"IEND", b"")
    )


def write(path: Path, pixels: np.ndarray) -> None:
    """Write `pixels` to `path` under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(encode(pixels))
    temporary.replace(path)
