"""Counts FLOPs of matrix products and convolutions in a compiled XLA program.

XLA's cost analysis counts a loop body once, e.g. one block of an encoder for all of
them. Here each product is multiplied by the
`known_trip_count` of every loop around it.
"""

import math
import re

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"^\w+\[([\d,]*)\]")
_DOT = re.compile(r" dot\(%?([\w.\-]+)")
_CONVOLUTION = re.compile(r" convolution\(%?[\w.\-]+, %?([\w.\-]+)\)")
_KERNEL_LABELS = re.compile(r"dim_labels=\w+_(\w+)->")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LIBRARY = re.compile(r'custom_call_target="[^"]*(?:matmul|gemm|dot|conv)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def count(text: str) -> float:
    """FLOPs of the `dot` and `convolution` instructions of one run of an HLO module.

    Args:
      text: optimized HLO, `compiled.as_text()`.

    Raises:
      ValueError: a loop around a product has no known trip count, a custom call
        contains products, or there is no entry computation.
    """
    bodies, entry = _computations(text)
    totals: dict[str, float] = {}

    def total(name: str) -> float:
        if name not in totals:
            flops = (_one(line, shapes, total) for line in bodies[name])
            totals[name] = sum(flops, 0.0)
        return totals[name]

    shapes = {
        name: tuple(int(n) for n in match[1].split(",") if n)
        for lines in bodies.values()
        for name, line in lines
        if (match := _SHAPE.match(line))
    }
    return total(entry)


def _computations(text: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    bodies: dict[str, list[tuple[str, str]]] = {}
    entry = current = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = head[2]
            bodies[current] = []
            entry = current if head[1] else entry
        elif current and (instruction := _INSTRUCTION.match(line)):
            bodies[current].append((instruction[1], instruction[2]))
    if not entry:
        raise ValueError("hlo: no ENTRY computation; expected compiled.as_text().")
    return bodies, entry


def _one(named: tuple[str, str], shapes, total) -> float:
    name, line = named
    if dot := _DOT.search(line):
        contracted = _group(_CONTRACTED, line)
        left = shapes[dot[1]]
        inner = math.prod(left[int(i)] for i in contracted.split(",") if i)
        return 2.0 * math.prod(shapes[name]) * inner
    if conv := _CONVOLUTION.search(line):
        kernel, labels = shapes[conv[1]], _group(_KERNEL_LABELS, line)
        # Products of an output: all of the kernel but its output features.
        inner = math.prod(kernel) // kernel[labels.index("o")]
        return 2.0 * math.prod(shapes[name]) * inner
    if _LIBRARY.search(line):
        raise ValueError(f"hlo: {name} is a product in a custom call; not counted.")
    called = [c for c in _CALLED.findall(line)]
    for branches in _BRANCHES.findall(line):
        called += [b.strip().lstrip("%") for b in branches.split(",")]
    inside = sum((total(c) for c in called), 0.0)
    if " while(" in line and inside:
        trips = _TRIPS.search(line)
        if not trips:
            raise ValueError(f"hlo: loop {name} has no known trip count.")
        return inside * int(trips[1])
    return inside


def _group(pattern: re.Pattern[str], line: str) -> str:
    """The first group of a pattern that an instruction has to contain."""
    match = pattern.search(line)
    if match is None:
        raise ValueError(f"hlo: no {pattern.pattern} in {line[:200]!r}.")
    return match[1]
