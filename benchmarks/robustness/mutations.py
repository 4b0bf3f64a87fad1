"""Mutations of real tables and image files, by a random generator of a seed."""

import io
import random
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Pixels = UInt8[np.ndarray, "h w 3"]
_CELLS = (
    "", "NA", "nan", "None", "-1", "0", "1.0", "1e3", "inf", "II", "IV ", "ii", "V",
    "00.png", "../00.png", "./01.png", "missing.png", '"', '""', "'", "a,b", "a;b",
    "a\nb", "a\rb", "\x00", "\ufeff", "\u2028", "e\u0301", "é", "脳", "=1+1",
    "x" * 200, "x" * 140_000, " ", "\t",
)  # fmt: skip


def mutated_table(data: bytes, rng: random.Random) -> bytes:
    """One to three mutations of a CSV file: of bytes, cells, rows or columns."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(_TABLE)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    piece = rng.choice(
        (b'"', b"'", b",", b";", b"\n", b"\r", b"\x00", b"\xff", b"\xc3")
    )
    return data[:at] + piece + data[at:]


def _cell(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    row = rng.randrange(len(lines))
    cells = lines[row].split(b",")
    cells[rng.randrange(len(cells))] = rng.choice(_CELLS).encode()
    lines[row] = b",".join(cells)
    return b"\n".join(lines)


def _quoted_cell(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    row = rng.randrange(len(lines))
    cells = lines[row].split(b",")
    text = rng.choice(_CELLS).replace('"', '""')
    cells[rng.randrange(len(cells))] = f'"{text}"'.encode()
    lines[row] = b",".join(cells)
    return b"\n".join(lines)


def _rows(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    row = rng.randrange(len(lines))
    change = rng.choice(("twice", "less", "blank", "swap", "commas"))
    if change == "twice":
        lines.insert(rng.randrange(len(lines) + 1), lines[row])
    elif change == "less":
        del lines[row]
    elif change == "blank":
        lines.insert(row, rng.choice((b"", b"   ", b",,,", b"\t")))
    elif change == "swap":
        other = rng.randrange(len(lines))
        lines[row], lines[other] = lines[other], lines[row]
    else:
        lines[row] += b"," * rng.randrange(1, 3)
    return b"\n".join(lines)


def _columns(data: bytes, rng: random.Random) -> bytes:
    table = [line.split(b",") for line in data.split(b"\n") if line]
    if not table:
        return data
    column = rng.randrange(min(map(len, table)))
    change = rng.choice(("twice", "less", "last", "renamed"))
    for row in table:
        if change == "twice":
            row.append(row[column])
        elif change == "less":
            del row[column]
        elif change == "last":
            row.append(row.pop(column))
    if change == "renamed":
        table[0][column] = rng.choice((b"x", b"", b"Image", b"p_0", b"p_value", b"y"))
    return b"\n".join(b",".join(row) for row in table) + b"\n"


def _whole(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.replace(b"\n", b"\r\n"),
        lambda: data.replace(b"\n", b"\r"),
        lambda: data.replace(b",", b";"),
        lambda: data.replace(b",", b"\t"),
        lambda: text.encode("utf-16"),
        lambda: data.rstrip(b"\n"),
        lambda: data + b"\n\n",
        lambda: b"",
        lambda: (
            b'"' + data.replace(b",", b'","').replace(b"\n", b'"\n"').removesuffix(b'"')
        ),
    )
    return rng.choice(changes)()


_TABLE = (_flip, _cut, _insert, _cell, _cell, _quoted_cell, _rows, _columns, _whole)


def mutated_image(number: int, rng: random.Random) -> tuple[str, bytes, Pixels | None]:
    """One image file: name, bytes, and the RGB pixels that it means.

    Pixels are None where the file is damaged, or of a kind that is refused: then a
    row has a reason, or, where a flipped byte stays unnoticed, other pixels.
    """
    draw = np.random.default_rng(rng.randrange(2**32))
    height, width = rng.choice(((64, 64), (64, 64), (40, 64), (90, 64), (200, 150)))
    pixels = draw.integers(0, 256, (height, width, 3), np.uint8)
    make = rng.choice(_IMAGES)
    ending, data, meant = make(pixels, rng)
    if rng.random() < 0.4:
        data, meant = rng.choice((_flip, _cut, _insert))(data, rng), None
    if rng.random() < 0.1:
        ending = rng.choice(("png", "jpg", "tif", "PNG", "tiff"))  # not the format
    return f"{number:03d}.{ending}", data, meant


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _rgb(pixels: Pixels, rng: random.Random) -> tuple[str, bytes, Pixels]:
    form, ending = rng.choice((("PNG", "png"), ("TIFF", "tif")))
    return ending, _saved(Image.fromarray(pixels), form), pixels


def _jpeg(pixels: Pixels, rng: random.Random) -> tuple[str, bytes, Pixels]:
    data = _saved(Image.fromarray(pixels), "JPEG", quality=rng.randrange(30, 96))
    with Image.open(io.BytesIO(data)) as image:
        return "jpg", data, np.array(image)


def _gray(pixels: Pixels, rng: random.Random) -> tuple[str, bytes, Pixels]:
    gray = pixels[..., 0]
    data = _saved(Image.fromarray(gray), rng.choice(("PNG", "TIFF")))
    return rng.choice(("png", "tif")), data, np.repeat(gray[..., None], 3, axis=2)


def _alpha(pixels: Pixels, rng: random.Random) -> tuple[str, bytes, Pixels]:
    """Opaque and wholly transparent pixels, which are white."""
    opaque = pixels[..., 0] > 100
    four = np.dstack([pixels, opaque.astype(np.uint8) * 255])
    data = _saved(Image.fromarray(four), "PNG")
    return "png", data, np.where(opaque[..., None], pixels, np.uint8(255))


def _refused(pixels: Pixels, rng: random.Random) -> tuple[str, bytes, None]:
    image = Image.fromarray(pixels)
    kind = rng.choice(
        ("P", "LA", "CMYK", "I;16", "F", "1", "pages", "BMP", "GIF", "WEBP")
    )
    if kind in ("BMP", "GIF", "WEBP"):
        return kind.lower(), _saved(image, kind), None
    if kind == "pages":
        return "tif", _saved(image, "TIFF", save_all=True, append_images=[image]), None
    if kind == "I;16":
        wide = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        return "png", _saved(wide, "PNG"), None
    form = "TIFF" if kind in ("CMYK", "F") else "PNG"
    return (
        form.lower()[:3].replace("tif", "tif"),
        _saved(image.convert(kind), form),
        None,
    )


def _other(pixels: Pixels, rng: random.Random) -> tuple[str, bytes, None]:
    texts = (
        b"",
        b"no image",
        b"\x89PNG\r\n\x1a\n",
        b"II*\x00\x08\x00\x00\x00",
        b"%PDF-1.7",
    )
    return rng.choice(("png", "jpg", "tif")), rng.choice(texts), None


_IMAGES = (_rgb, _rgb, _jpeg, _gray, _alpha, _refused, _refused, _other)
