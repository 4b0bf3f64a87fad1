"""Scaling of a step's time and memory with image size and batch size.

    python benchmarks/speed/scaling.py --images=256,512,1024 --batches=1,2,4

Every size runs in a separate process, to measure its peak memory. Image sizes are run
at the smallest batch, batch sizes at the image size `--at`. The last line is JSON, with
fitted exponents.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import conditions

STEP = Path(__file__).with_name("step.py")


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope of log y against log x."""
    u, v = [math.log(a) for a in x], [math.log(a) for a in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    covariance = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True))
    return covariance / sum((a - mean_u) ** 2 for a in u)


def step(image: int, batch: int, reps: int, encoder: str) -> dict[str, Any]:
    """Runs benchmarks/speed/step.py; returns its JSON."""
    flags = [f"--image={image}", f"--batch={batch}", f"--reps={reps}"]
    done = subprocess.run(
        [sys.executable, str(STEP), *flags, f"--encoder={encoder}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=numbers, default=[256, 512, 1024, 2048])
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--at", type=int, default=512, help="image size for batches")
    parser.add_argument("--reps", type=int, default=1)
    parser.add_argument("--encoder", default="Ti/16")
    flags = parser.parse_args(argv)
    least = min(flags.batches)
    pairs = [(side, least) for side in flags.images]
    pairs += [(flags.at, b) for b in flags.batches if (flags.at, b) not in pairs]
    rows = {}
    names = ("wall_s", "cpu_s", "peak_gib", "temp_bytes", "flops", "compile_s")
    print("image batch " + " ".join(f"{n:>12}" for n in (*names, "load")), flush=True)
    for side, batch in sorted(set(pairs)):
        rows[side, batch] = row = step(side, batch, flags.reps, flags.encoder)
        figures = " ".join(f"{row[n]:12.4g}" for n in names)
        print(f"{side:5} {batch:5} {figures} {row['load'][0]:12}", flush=True)
    result: dict[str, Any] = conditions.conditions()
    by_image = [(s * s, rows[s, least]) for s in flags.images]
    by_batch = [(b, rows[flags.at, b]) for b in flags.batches]
    for label, points in (("pixels", by_image), ("batch", by_batch)):
        if len(points) < 2:
            continue
        for name in ("wall_s", "cpu_s", "temp_bytes", "flops"):
            slope = exponent([x for x, _ in points], [row[name] for _, row in points])
            result[f"{name}_exponent_in_{label}"] = round(slope, 3)
    conditions.report(result, result)


if __name__ == "__main__":
    main(sys.argv[1:])
