"""Measures this package on the accelerator at hand, in one command of ten minutes.

    python tools/on_device.py --out=on_device.json
    python tools/on_device.py --tiny --out=on_device.json

Every part runs in its own process; the last ones are left out when time is over:

* `parity`: the recordings, in float32 with the precision that is the device's default,
  and, where that fails, with JAX_DEFAULT_MATMUL_PRECISION=highest;
* `step`: time and memory of a training step by batch size and dtype;
* `attention`: the same step with each implementation, and which one `auto` takes;
* `input`: a run of the phantom from `data.cache=ram` and `device`: the share of the
  time that its steps waited for input, and whether both wrote the same metrics.jsonl;
* `processes`: two processes against one with two devices. It needs two devices: with
  one, CPU devices stand in, and the table says so.

The table says what failed and why; the file has one JSON object with the conditions.
`--tiny` makes everything small, for a test on a CPU.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
LAUNCH = [sys.executable, str(ROOT / "launch.py")]
STEP = [sys.executable, str(ROOT / "benchmarks/speed/step.py")]
PRECISION = "JAX_DEFAULT_MATMUL_PRECISION"
PHANTOM = f"--config={ROOT}/configs/phantom.py"
_WAITED = re.compile(r"\(([\d.]+) steps/s, (\d+)% waiting for input")
_KEPT = ("wall_s", "wall_min_s", "compile_s", "device_peak_gib", "peak_gib")


class Clock:
    """The time that is left of a budget."""

    def __init__(self, seconds: float):
        """Starts."""
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds, never less than 0."""
        return max(0.0, self._end - time.monotonic())


def run(
    words: Sequence[str], clock: Clock, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs a command to its end, or to that of the budget.

    Returns:
      `code` (None where it was not run or had no time to end), `out` and `seconds`.
    """
    if clock.left() < 1:
        return {"code": None, "out": "not run: the time is over", "seconds": 0.0}
    begin = time.monotonic()
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=clock.left(),
            env={**os.environ, **(environment or {})},
            cwd=ROOT,
        )
        code, out = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        code, out = None, "not finished: the time is over"
    return {"code": code, "out": out, "seconds": round(time.monotonic() - begin, 1)}


def failure(done: Mapping[str, Any]) -> str:
    """Why a command failed: its last line that is not empty."""
    lines = [line for line in done["out"].splitlines() if line.strip()]
    return (lines or [f"exit code {done['code']}"])[-1][:200]


def parity(tiny: bool, clock: Clock) -> Iterator[dict[str, Any]]:
    """The recordings of the paper, and of the release unless `tiny`."""
    names = ("paper_a",) if tiny else ("paper_a", "paper_b", "release_a")
    for name in names:
        words = [*LAUNCH, "parity", f"--golden={ROOT}/tests/golden/{name}.npz"]
        for precision in (None, "highest"):
            done = run(words, clock, {PRECISION: precision} if precision else {})
            row = {"what": name, "precision": precision or "default"}
            row |= {"ok": done["code"] == 0, "seconds": done["seconds"]}
            yield row if row["ok"] else row | {"reason": failure(done)}
            if row["ok"]:
                break


def step(words: Sequence[str], clock: Clock) -> dict[str, Any]:
    """Figures of `benchmarks/speed/step.py`, or the reason why there are none."""
    done = run([*STEP, *words], clock)
    if done["code"] != 0:
        return {"ok": False, "reason": failure(done)}
    figures = json.loads(done["out"].strip().splitlines()[-1])
    return {"ok": True} | {name: figures[name] for name in _KEPT}


def steps(tiny: bool, clock: Clock) -> Iterator[dict[str, Any]]:
    """The step by batch size and dtype, smallest first."""
    batches = (1, 2) if tiny else (1, 4, 16)
    for batch in batches:
        for dtype in ("float32", "bfloat16"):
            words = [*_size(tiny), f"--batch={batch}", f"--dtype={dtype}"]
            yield {"what": f"B = {batch}, {dtype}"} | step(words, clock)


def attentions(tiny: bool, clock: Clock) -> Iterator[dict[str, Any]]:
    """The step with each attention; `chosen` marks what `auto` takes."""
    platform = _platform(clock)
    for dtype in ("float32", "bfloat16"):
        chosen = _chosen(platform, dtype)
        fused = {"gpu": ("cudnn",), "tpu": ("pallas",)}.get(platform, ())
        for name in ("chunked", *fused):
            words = [*_size(tiny), "--batch=1", f"--dtype={dtype}"]
            row = {"what": f"{name}, {dtype}", "chosen": name == chosen}
            yield row | step([*words, f"--attention={name}"], clock)


def inputs(tiny: bool, clock: Clock, folder: Path) -> Iterator[dict[str, Any]]:
    """Runs of one fold whose images lie in host and in device memory."""
    regions, side = (24, 64) if tiny else (320, 256)
    words = [
        *LAUNCH, PHANTOM, f"--config.data.regions={regions}",
        f"--config.data.image_size={side}", f"--config.data.dir={folder}/data",
        "--config.encoder=mu/16", "--config.batch_size=4", "--config.folds=2",
        "--config.fold=0", "--config.epochs=2", "--config.log_every=1",
    ]  # fmt: skip
    written = {}
    for cache in ("ram", "device"):
        workdir = folder / cache
        more = [f"--config.data.cache={cache}", f"--workdir={workdir}"]
        done = run([*words, *more], clock)
        row: dict[str, Any] = {"what": f"cache={cache}", "ok": done["code"] == 0}
        found = _WAITED.findall(done["out"])
        if not (row["ok"] and found):
            yield row | {"ok": False, "reason": failure(done)}
            continue
        rate, waited = found[-1]
        written[cache] = (workdir / "fold_0/metrics.jsonl").read_bytes()
        yield row | {"steps_per_s": float(rate), "input_wait": int(waited) / 100}
    if len(written) == 2:
        same = written["ram"] == written["device"]
        yield {"what": "metrics.jsonl of both are equal", "ok": same}


def processes(clock: Clock, folder: Path) -> Iterator[dict[str, Any]]:
    """One fold by two processes, and by one with two devices."""
    count = _devices(clock)
    own = count >= 2 and _platform(clock) != "cpu"
    environment = {} if own else {"JAX_PLATFORMS": "cpu"}
    words = [
        *LAUNCH, PHANTOM, "--config.data.regions=24", f"--config.data.dir={folder}/two",
        "--config.encoder=mu/16", "--config.batch_size=4", "--config.folds=2",
        "--config.fold=0", "--config.epochs=1", "--config.log_every=1",
    ]  # fmt: skip
    one = [f"--workdir={folder}/one", "--config.cpu_devices=2", "--config.devices=2"]
    done = run([*words, *one], clock, environment)
    what = "two processes" if own else "two processes on CPU devices"
    if done["code"] != 0:
        yield {"what": what, "ok": False, "reason": failure(done)}
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for k in range(2):
        more = [f"--workdir={folder}/both", "--config.cpu_devices=1"]
        more += ["--config.devices=1", f"--coordinator=127.0.0.1:{port}"]
        more += [f"--process_id={k}", "--num_processes=2"]
        visible = {"CUDA_VISIBLE_DEVICES": str(k)} if own else {}
        started.append(
            subprocess.Popen(
                [*words, *more],
                env={**os.environ, **environment, **visible},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
            )
        )
    try:
        codes = [process.wait(clock.left()) for process in started]
    except subprocess.TimeoutExpired:
        yield {"what": what, "ok": False, "reason": "not finished: the time is over"}
        return
    finally:
        for process in started:
            process.kill()
            process.wait()
    if any(codes):
        yield {"what": what, "ok": False, "reason": f"exit codes {codes}"}
        return
    files = [folder / name / "fold_0/metrics.jsonl" for name in ("both", "one")]
    both, alone = (file.read_bytes() for file in files)
    yield {"what": f"{what}: metrics.jsonl is that of one", "ok": both == alone}


def _size(tiny: bool) -> list[str]:
    if tiny:
        return ["--image=32", "--encoder=mu/16", "--reps=1"]
    return ["--image=1024", "--reps=3"]


def _ask(code: str, clock: Clock) -> str:
    """What a line of Python prints, in a process that gives the device back."""
    done = run([sys.executable, "-c", code], clock)
    if done["code"] != 0:
        raise ValueError(f"JAX has no device: {failure(done)}")
    return done["out"].strip().splitlines()[-1]


def _platform(clock: Clock) -> str:
    return _ask("import jax; print(jax.default_backend())", clock)


def _devices(clock: Clock) -> int:
    return int(_ask("import jax; print(jax.local_device_count())", clock))


def _chosen(platform: str, dtype: str) -> str:
    from fof_jax.models import attention

    return attention.select_implementation(platform, dtype, 64)


def measure(tiny: bool, seconds: float) -> dict[str, Any]:
    """All parts, each a list of rows; one that cannot run is a row with its reason."""
    clock = Clock(seconds)
    asked = "from benchmarks.conditions import conditions as c; import json"
    result: dict[str, Any] = json.loads(_ask(f"{asked}; print(json.dumps(c()))", clock))
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "parity": parity(tiny, clock),
            "step": steps(tiny, clock),
            "attention": attentions(tiny, clock),
            "input": inputs(tiny, clock, folder),
            "processes": processes(clock, folder),
        }
        for part, rows in parts.items():
            result[part] = []
            try:
                for row in rows:
                    result[part].append(row)
                    print(f"{part:10} {line(row)}", flush=True)
            except (ValueError, OSError) as error:
                result[part].append({"what": part, "ok": False, "reason": str(error)})
    return result | {"tiny": tiny, "seconds": round(time.monotonic() - begin, 1)}


def line(row: Mapping[str, Any]) -> str:
    """A row of the table: what, ok or FAILED, and its figures."""
    figures = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
        if name not in ("what", "ok") and value is not None
    ]
    verdict = "ok" if row["ok"] else "FAILED"
    return f"{row['what']:32} {verdict:7} {', '.join(figures)}".rstrip()


def main(argv: Sequence[str]) -> int:
    """Prints the table, writes the file; 1 if a row failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file; default: the last line")
    parser.add_argument("--tiny", action="store_true", help="small, for a test")
    parser.add_argument("--seconds", type=float, default=590.0, help="of the whole")
    flags = parser.parse_args(argv)
    result = measure(flags.tiny, flags.seconds)
    text = json.dumps(result)
    if flags.out:
        flags.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    rows = [row for part in result.values() if isinstance(part, list) for row in part
            if isinstance(row, dict)]  # fmt: skip
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
