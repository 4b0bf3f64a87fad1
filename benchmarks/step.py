"""Times one training step, the very one that `train.py` compiles.

    python benchmarks/step.py --image=1024 --batch=1 --reps=3

The last line is JSON.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import conditions, program  # noqa: E402


def measure(flags: argparse.Namespace) -> dict:
    config = program.config(
        data_image_size=flags.image,
        batch_size=flags.batch,
        encoder=flags.encoder,
        remat=flags.remat,
        attention=flags.attention,
        compute_dtype=flags.dtype,
    )
    before = conditions.conditions()
    step = program.compile_step(config)
    memory = step.compiled.memory_analysis()
    times = conditions.timed(step, flags.reps)
    return {
        **vars(flags),
        **times,
        "peak_gib": conditions.peak_gib(),
        "compile_s": step.compile_s,
        "temp_bytes": memory.temp_size_in_bytes,
        "loss": float(step()["total"]) if flags.image <= 256 else None,
        **before,
        "load_after": conditions.conditions()["load"],
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=int, default=1024, help="side, pixels")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--reps", type=int, default=3, help="steps, after a warm-up")
    parser.add_argument("--encoder", default="Ti/16")
    parser.add_argument("--remat", default="attention")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--dtype", default="float32")
    result = measure(parser.parse_args(argv))
    conditions.report(result, result)


if __name__ == "__main__":
    main(sys.argv[1:])
