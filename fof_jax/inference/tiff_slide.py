"""TIFF slides that OpenSlide does not read, through tifffile, extra `slides`.

These are TIFFs in strips and OME-TIFFs whose channels are separate pages, of which
OpenSlide would show the first in gray. The reader has the part of OpenSlide's interface
that `slides.py` uses, and decodes only the parts of a level that a region touches.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_PER_UNIT = {2: 25400.0, 3: 10000.0}  # micrometers in an inch, a centimeter


def has_channel_pages(path: Path) -> bool:
    """Whether the first image of an OME-TIFF has its channels in separate pages."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        return file.is_ome and "S" not in series.axes and len(series.pages) > 1


class TiffSlide:
    """A slide of one RGB image with any number of levels.

    Attributes:
      level_dimensions: width and height of each level.
      level_downsamples: of each level, relative to level 0.
      properties: description and scale by OpenSlide's names.
    """

    def __init__(self, path: Path):
        """Opens a file.

        Raises:
          ValueError: tifffile is not installed or cannot read the file, or it is not
            RGB with 8 bits.
        """
        try:
            import tifffile
        except ImportError:
            raise ValueError(
                f"{path.name}: a TIFF that OpenSlide does not read, and tifffile is "
                "not installed. pip install -e '.[slides]', or save regions as images."
            ) from None
        self._name = path.name
        try:
            self._file = tifffile.TiffFile(path)
        except tifffile.TiffFileError as error:
            raise ValueError(f"{path.name}: not a readable TIFF ({error}).") from None
        try:
            levels = self._file.series[0].levels
            self._levels: list[list[Any]] = [list(level.pages) for level in levels]
            self._require_rgb(self._file.series[0])
        except BaseException:
            self._file.close()
            raise
        sizes = [(p[0].imagewidth, p[0].imagelength) for p in self._levels]
        self.level_dimensions = tuple(sizes)
        self.level_downsamples = tuple(sizes[0][0] / width for width, _ in sizes)
        self.properties = _properties(self._levels[0][0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    @property
    def dimensions(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.level_dimensions[0]

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """The coarsest level that is at least as fine as asked for."""
        fine = [k for k, d in enumerate(self.level_downsamples) if d <= downsample]
        return max(fine, key=lambda k: self.level_downsamples[k], default=0)

    def get_thumbnail(self, size: tuple[int, int]) -> Image.Image:
        """The slide, no larger than `size`, from the coarsest sufficient level."""
        width, height = self.dimensions
        level = self.get_best_level_for_downsample(
            max(width / size[0], height / size[1])
        )
        whole = self.read_region((0, 0), level, self.level_dimensions[level])
        whole.thumbnail(size)
        return whole

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        """RGBA of a region; transparent outside of the slide.

        Args:
          location: left and top, in pixels of level 0.
          level: to read.
          size: width and height, in pixels of that level.

        Raises:
          ValueError: a part is damaged, or its compression requires imagecodecs.
        """
        scale = self.level_downsamples[level]
        left, top = (round(at / scale) for at in location)
        out = np.zeros((size[1], size[0], 4), np.uint8)
        pages = self._levels[level]
        for k, page in enumerate(pages):
            channels = slice(0, 3) if len(pages) == 1 else slice(k, k + 1)
            self._paste(page, out, channels, left, top)
        return Image.fromarray(out, "RGBA")

    def _paste(
        self, page: Any, out: np.ndarray, channels: slice, left: int, top: int
    ) -> None:
        """Copies the tiles or strips of a page that a region touches."""
        height, width = out.shape[:2]
        rows, columns = _part_size(page)
        page_height, page_width = page.keyframe.imagelength, page.keyframe.imagewidth
        down, across = -(-page_height // rows), -(-page_width // columns)
        for row in range(max(top // rows, 0), min(-(-(top + height) // rows), down)):
            first, last = max(left // columns, 0), -(-(left + width) // columns)
            for column in range(first, min(last, across)):
                part = self._decode(page, row * across + column)
                y, x = row * rows - top, column * columns - left
                a, b = max(y, 0), max(x, 0)
                c = min(y + part.shape[0], height, page_height - top)
                d = min(x + part.shape[1], width, page_width - left)
                if c > a and d > b:
                    inside = part[a - y : c - y, b - x : d - x]
                    out[a:c, b:d, channels] = inside[..., : channels.stop]
                    out[a:c, b:d, 3] = 255

    def _decode(self, page: Any, index: int) -> np.ndarray:
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        handle = page.parent.filehandle
        handle.seek(offset)
        data = handle.read(count)
        try:
            part = page.keyframe.decode(data, index, jpegtables=page.jpegtables)[0]
        except Exception as error:
            raise ValueError(
                f"{self._name}: a part of the slide cannot be read ({error}). Install "
                "imagecodecs if its compression needs it, or copy the file again."
            ) from None
        if part is None:  # a part that is not stored
            samples = page.keyframe.samplesperpixel
            return np.zeros((*_part_size(page), samples), np.uint8)
        return part[0]

    def _require_rgb(self, series: Any) -> None:
        pages = self._levels[0]
        samples = pages[0].samplesperpixel
        separate = len(pages) == 3 and samples == 1 and series.axes[0] == "C"
        together = len(pages) == 1 and samples in (3, 4) and pages[0].planarconfig == 1
        if series.dtype != np.uint8 or not (separate or together):
            raise ValueError(
                f"{self._name}: an image of axes {series.axes}, shape {series.shape}, "
                f"{series.dtype}; expected RGB with 8 bits, as of H&E. Convert it, or "
                "save regions as images."
            )


def _part_size(page: Any) -> tuple[int, int]:
    """Height and width of a tile, or of a strip."""
    first = page.keyframe  # a later page has no tags of its own
    if first.is_tiled:
        return first.tilelength, first.tilewidth
    return first.rowsperstrip, first.imagewidth


def _properties(page: Any) -> dict[str, str]:
    """Description and scale of a page by OpenSlide's names."""
    properties = {"tiff.ImageDescription": page.description}
    tags = [page.tags.get(n) for n in ("XResolution", "YResolution", "ResolutionUnit")]
    if all(tags) and int(tags[2].value) in _PER_UNIT:
        for axis, tag in zip("xy", tags, strict=False):
            above, below = tag.value
            if above:
                per = _PER_UNIT[int(tags[2].value)]
                properties[f"openslide.mpp-{axis}"] = repr(per * below / above)
    return properties
