"""Times one training step, the very one that `train.py` compiles.

    python benchmarks/speed/step.py --image=1024 --batch=1 --reps=3

Augmentation and AdamW are in it. `flops` counts matrix products in the compiled
program, loops times their trips; `flops_account` is the count by hand, recomputation
included; `product_gflops_per_s` is the rate of one large product just afterwards and
`share_of_limit` the step's rate over it; `temp_bytes` is XLA's own figure. The last
line is JSON.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import conditions  # noqa: E402
from benchmarks.speed import (
    flops,  # noqa: E402
    program,  # noqa: E402
)
from fof_jax.models import vit  # noqa: E402


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
    temporary = step.compiled.memory_analysis().temp_size_in_bytes
    counted = flops.count(step.compiled.as_text())
    size, patch = vit.parse_variant(flags.encoder)
    by_hand = program.account(size, patch, flags.image, remat=flags.remat)
    expected = flags.batch * (by_hand["step"] + by_hand["recomputed"])
    times = conditions.timed(step, flags.reps)
    peak = conditions.peak_gib()
    limit = conditions.product_gflops()
    reached = counted / times["wall_s"] / 1e9
    return {
        **vars(flags),
        **times,
        "peak_gib": peak,
        "compile_s": step.compile_s,
        "flops": counted,
        "flops_account": expected,
        "encoder_forwards": counted / flags.batch / by_hand["forward"],
        "gflops_per_s": reached,
        "product_gflops_per_s": limit,
        "share_of_limit": reached / limit,
        "temp_bytes": temporary,
        **before,
        "load_after": conditions.conditions()["load"],
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", type=int, default=1024, help="side, pixels")
    parser.add_argument("--batch", type=int, default=1, help="images")
    parser.add_argument("--reps", type=int, default=3, help="steps, after a warm-up")
    parser.add_argument("--encoder", default="Ti/16")
    parser.add_argument("--remat", default="output")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--dtype", default="float32")
    result = measure(parser.parse_args(argv))
    conditions.report(result, result)


if __name__ == "__main__":
    main(sys.argv[1:])
