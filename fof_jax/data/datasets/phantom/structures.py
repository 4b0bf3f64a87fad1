"""Diagnostic structures: microvascular tufts, necrosis, mitoses; and capillaries.

Lengths are in micrometers. Sizes scale with the field of view within a realistic range,
so that structures are a small part of regions of any size.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float32

from fof_jax.data.datasets.phantom import nuclei, random


@dataclasses.dataclass(frozen=True)
class Structures:
    """Diagnostic structures of one region.

    Attributes:
      tuft: endothelial stroma of tufts, 0-1 per pixel.
      lumen: vessel lumina of tufts, 0-1 per pixel.
      core: necrosis without palisade, 0-1 per pixel.
      vacated: pixels without ordinary nuclei.
      mask: pixels of structures.
      cells: nuclei of the structures, including mitotic figures.
      clear: cleared cytoplasm around mitotic figures.
    """

    tuft: Float32[np.ndarray, "side side"]
    lumen: Float32[np.ndarray, "side side"]
    core: Float32[np.ndarray, "side side"]
    vacated: Bool[np.ndarray, "side side"]
    mask: Bool[np.ndarray, "side side"]
    cells: nuclei.Nuclei
    clear: nuclei.Nuclei


def none(side: int) -> Structures:
    """A region without diagnostic structures."""
    blank = np.zeros((side, side), np.float32)
    empty = nuclei.discs(np.zeros((0, 2), np.float32), 1.0)
    return Structures(blank, blank, blank, blank > 0, blank > 0, empty, empty)


def sample(
    rng: np.random.Generator,
    *,
    grade: int,
    side: int,
    um: float,
) -> Structures:
    """Samples structures of a grade: 1 mitoses; 2 also tufts or necrosis; 0 none."""
    if grade == 0:
        return none(side)
    field = side * um
    blank = np.zeros((side, side), np.float32)
    tuft, lumen, core = blank.copy(), blank.copy(), blank.copy()
    vacated = blank > 0
    cells: list[nuclei.Nuclei] = []
    if grade == 2:
        kind = rng.random()
        both = kind > 0.8 and field > 200
        with_necrosis = both or kind > 0.5
        angle = random.directions(rng, 1)[0]
        center = np.float32(field / 2)
        apart = np.float32(field * (0.24 if both else random.between(rng, 0.0, 0.2)))
        if with_necrosis:
            core, ring, made = _necrosis(rng, center + apart * angle, side, um)
            cells.append(made)
            vacated = vacated | (core > 0.5) | ring
        if both or not with_necrosis:
            centers = [center - apart * angle]
            if not both:
                for _ in range(random.count_around(rng, max(0.0, field / 250 - 0.5))):
                    centers.append(random.uniform(rng, 0.15, 0.85, 2) * center * 2)
            for center in centers:
                made = _tuft(rng, center, field, um, tuft, lumen)
                cells.append(made)
            vacated = vacated | (tuft > 0.4)
    mask = vacated
    figures, clear = _mitoses(rng, field, vacated, um)
    cells.append(figures)
    around = blank.copy()
    nuclei.stamp(around, clear, um)
    return Structures(
        tuft=tuft,
        lumen=lumen,
        core=core,
        vacated=vacated | (around > 0.5),
        mask=mask | (around > 0.5),
        cells=nuclei.join(*cells),
        clear=clear,
    )


def _grid(side: int, um: float) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(um)
    return axis[None, :], axis[:, None]


def lookup(canvas: np.ndarray, at: Float32[np.ndarray, "n 2"], um: float) -> np.ndarray:
    """Nearest-neighbor lookup of `canvas` at points; the border outside."""
    i = np.clip((at / np.float32(um)).astype(np.int64), 0, canvas.shape[0] - 1)
    return canvas[i[:, 1], i[:, 0]]


def _tuft(
    rng: np.random.Generator,
    center: np.ndarray,
    field: float,
    um: float,
    stroma: np.ndarray,
    lumen: np.ndarray,
) -> nuclei.Nuclei:
    """A glomeruloid tuft: coiled vessels, plump endothelium around small lumina."""
    radius = min(44.0, random.between(rng, 0.10, 0.135) * field + 6)
    coils = nuclei.scatter(rng, field=2.2 * radius, spacing=15.5, jitter=0.6)
    coils = coils - np.float32(1.1 * radius)
    inside = (coils * coils).sum(axis=1) < (radius - 6) * (radius - 6)
    coils = (coils[inside] + center).astype(np.float32)
    if len(coils) == 0:
        coils = center[None].astype(np.float32)
    bore = random.uniform(rng, 2.4, 4.2, len(coils))
    nuclei.stamp(stroma, nuclei.discs(coils, 12.0), um)
    nuclei.stamp(lumen, nuclei.discs(coils, bore), um)
    at, along = [], []
    # Dense endothelium; then sparse pericytes and cells of the next coil.
    for beyond, number, fraction in ((2.4, 6, 0.9), (6.8, 9, 0.5)):
        start = rng.integers(720, size=(len(coils), 1))
        turn = (np.arange(number) * (720 // number))[None]
        sway = rng.integers(-22, 23, size=(len(coils), number))
        out = random.DIRECTIONS[(start + turn + sway) % 720]  # [coils, number, 2]
        wobble = random.uniform(rng, 0.9, 1.1, out.shape[0] * number)
        reach = (bore[:, None] + np.float32(beyond)) * wobble.reshape(-1, number)
        kept = rng.random((len(coils), number)) < fraction
        at.append((coils[:, None] + out * reach[..., None])[kept])
        along.append(np.stack([-out[..., 1], out[..., 0]], axis=-1)[kept])
    return nuclei.make(
        rng, np.concatenate(at).astype(np.float32), radius=2.3, spread=0.15,
        elongation=2.2, irregular=0.05, dark=1.05, along=np.concatenate(along),
    )  # fmt: skip


def _necrosis(
    rng: np.random.Generator, center: np.ndarray, side: int, um: float
) -> tuple[np.ndarray, np.ndarray, nuclei.Nuclei]:
    """Necrosis, the area of its palisade, and nuclei of palisade and debris."""
    field = side * um
    radius = min(70.0, random.between(rng, 0.13, 0.17) * field)
    x, y = _grid(side, um)
    dx, dy = x - np.float32(center[0]), y - np.float32(center[1])
    axis = random.directions(rng, 1)[0]
    u = (dx * axis[0] + dy * axis[1]) * np.float32(0.8)
    v = (dy * axis[0] - dx * axis[1]) * np.float32(1.25)
    bumps = random.value_noise(rng, side, max(3.0, 0.9 * radius / um))
    away = np.sqrt(u * u + v * v) + (bumps - np.float32(0.5)) * np.float32(0.9 * radius)
    beyond = away - np.float32(radius)  # micrometers outside the edge of the core
    core = np.clip(np.float32(0.5) - beyond / np.float32(3 * um), 0, 1)
    thick = 13.0
    ring = (beyond >= 0) & (beyond < thick)
    points = nuclei.scatter(rng, field=field, spacing=5.8, jitter=0.7)
    edge = lookup(beyond, points, um)
    palisade = points[(edge >= 0.5) & (edge < thick - 1)]
    out = palisade - center.astype(np.float32)
    length = np.sqrt(out[:, :1] * out[:, :1] + out[:, 1:] * out[:, 1:])
    cells = nuclei.make(
        rng, palisade, radius=2.6, spread=0.15, elongation=2.4, irregular=0.06,
        dark=1.05, along=out / np.maximum(length, np.float32(1e-3)),
    )  # fmt: skip
    debris = nuclei.scatter(rng, field=field, spacing=11.0, jitter=1.0)
    debris = debris[lookup(beyond, debris, um) < -4]
    dust = nuclei.make(
        rng, debris, radius=1.3, spread=0.3, elongation=1.2, irregular=0.1, dark=0.9
    )
    return core.astype(np.float32), ring, nuclei.join(cells, dust)


def _mitoses(
    rng: np.random.Generator, field: float, vacated: np.ndarray, um: float
) -> tuple[nuclei.Nuclei, nuclei.Nuclei]:
    """Metaphase plates and anaphase pairs, each in cleared cytoplasm."""
    count = 3 + random.count_around(rng, 28e-6 * field * field)
    at = random.uniform(rng, 0.06, 0.94, 6 * count).reshape(-1, 2) * np.float32(field)
    at = at[~lookup(vacated, at, um)][:count]
    along = random.directions(rng, len(at))
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    paired = rng.random(len(at)) < 0.5
    gap = np.where(paired, 2.6, 0.0).astype(np.float32)[:, None]
    places = np.concatenate([at + gap * across, (at - gap * across)[paired]])
    turned = np.concatenate([along, along[paired]])
    plates = nuclei.make(
        rng, places.astype(np.float32), radius=2.9, spread=0.1, elongation=2.9,
        irregular=0.08, dark=1.75, along=turned,
    )  # fmt: skip
    return plates, nuclei.discs(at, 6.6)


def capillaries(
    rng: np.random.Generator, *, field: float, branching: bool
) -> tuple[Float32[np.ndarray, "n 2"], Float32[np.ndarray, "n 2"]]:
    """Center lines of capillaries as points 1.5 um apart, and their directions.

    Args:
      rng: random generator.
      field: side of the field in micrometers.
      branching: a network of branching arcs instead of single vessels.
    """
    step = 1.5
    area = field * field
    if branching:
        trunks = max(2, random.count_around(rng, area / 9000))
    else:
        trunks = random.count_around(rng, area / 40000)
    points, ways = [], []
    for _ in range(trunks):
        start = random.uniform(rng, 0.0, 1.0, 2) * np.float32(field)
        way = int(rng.integers(720))
        open_ends = [(start, way, 2 if branching else 0)]
        while open_ends:
            start, way, forks = open_ends.pop()
            n = int(rng.integers(20, 36)) if branching else int(rng.integers(50, 110))
            turns = rng.integers(-22, 23, size=n) + int(rng.integers(-5, 6))
            at_way = (way + np.cumsum(turns)) % 720
            path = np.cumsum(random.DIRECTIONS[at_way] * np.float32(step), axis=0)
            path = (path + start).astype(np.float32)
            points.append(path)
            ways.append(random.DIRECTIONS[at_way])
            if forks:
                end, last = path[-1], int(at_way[-1])
                spread = int(rng.integers(70, 130))
                open_ends.append((end, last + spread, forks - 1))
                open_ends.append((end, last - spread, forks - 1))
    if not points:
        empty = np.zeros((0, 2), np.float32)
        return empty, empty
    return np.concatenate(points), np.concatenate(ways)
