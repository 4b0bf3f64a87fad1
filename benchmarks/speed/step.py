"""Times the training step of `train.py`.

    python benchmarks/speed/step.py --image=1024 --batch=1 --reps=3

It includes augmentation and AdamW. `flops` counts matrix products in the compiled
program, loop bodies times trip counts; `flops_account` is the analytic count, including
recomputation; `product_gflops_per_s` is the rate of one large product measured
afterwards and `share_of_limit` the ratio of the step's rate to it; `temp_bytes` is
reported by XLA; `peak_gib` is host memory, `device_peak_gib` that of the device,
None on a CPU. The last line is JSON.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import conditions
from benchmarks.speed import program
from fof_jax.models import vit
from fof_jax.training import flops


def measure(flags: argparse.Namespace) -> dict:
    config = program.config(
        data_image_size=flags.image,
        batch_size=flags.batch,
        encoder=flags.encoder,
        remat=flags.remat,
        attention=flags.attention,
        compute_dtype=flags.dtype,
        views_fill=flags.fill,
        unroll=flags.unroll,
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
        "device_peak_gib": conditions.device_peak_gib(),
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
    parser.add_argument(
        "--reps", type=int, default=3, help="steps, after a warmup step"
    )
    parser.add_argument("--encoder", default="Ti/16")
    parser.add_argument("--remat", default="output")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--fill", default="zero", help="views.fill; flops_account is of zero"
    )
    parser.add_argument("--unroll", type=int, default=1, help="blocks per iteration")
    result = measure(parser.parse_args(argv))
    conditions.report(result, result)


if __name__ == "__main__":
    main(sys.argv[1:])
