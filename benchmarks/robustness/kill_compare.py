"""Kills `compare` at random moments, resumes it, and compares the tables.

    python benchmarks/robustness/kill_compare.py --kills=10 --out=/tmp/kill-compare

The reference is an uninterrupted comparison of three rows on two folds of a small
phantom. The same command is then started again and again in another folder, and ended
with SIGKILL after a random time; where it ends by itself first, the next has a new
folder. The tables of every folder have to equal the reference's byte for byte, and no
process of a cell may outlive the one that was killed. The last line is JSON.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import conditions

ROOT = Path(__file__).parents[2]
ROWS, FOLDS = "vit,omics,distill.kl", 2  # KL has a teacher
WORDS = [
    f"--config={ROOT}/configs/comparison.py",
    "--config.data.regions=24",
    f"--config.folds={FOLDS}",
    "--config.epochs=2",
    "--config.batch_size=4",
    "--config.encoder=mu/16",
    "--config.save_every=2",
    "--config.cpu_devices=1",
    f"--rows={ROWS}",
    "--replicates=200",
]
TABLES = [f"comparison.{suffix}" for suffix in ("txt", "csv", "tex", "json")]


def start(out: Path, workdir: Path) -> subprocess.Popen:
    """Starts the comparison."""
    words = [*WORDS, f"--config.data.dir={out / 'data'}", f"--workdir={workdir}"]
    with open(f"{workdir}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), "compare", *words],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def run_to_end(out: Path, workdir: Path) -> float:
    """Runs to the end; returns the seconds."""
    begin = time.monotonic()
    if code := start(out, workdir).wait():
        raise RuntimeError(f"{workdir} ended with {code}; see {workdir}.log")
    return time.monotonic() - begin


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][1] != "Z"
    except OSError:
        return False


def main(argv: list[str]) -> None:
    """Kills, resumes and compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    flags = parser.parse_args(argv)
    flags.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(flags.seed)
    reference = flags.out / "reference"
    took = run_to_end(flags.out, reference)
    result: dict[str, Any] = conditions.conditions() | {"uninterrupted_s": round(took)}
    print(f"the reference took {took:.0f} s", flush=True)
    folder, moments, outlived = 0, [], 0
    workdir = flags.out / "killed_0"
    while len(moments) < flags.kills:
        process = start(flags.out, workdir)
        moment = rng.uniform(0, took)
        try:
            process.wait(moment)
            print(f"over before {moment:.1f} s; from the start again", flush=True)
            folder += 1
            workdir = flags.out / f"killed_{folder}"
            continue
        except subprocess.TimeoutExpired:
            pass
        own = children(process.pid)
        process.kill()
        process.wait()
        time.sleep(1)
        outlived += sum(alive(pid) for pid in own)
        done = len(list(workdir.glob("cells/*/*/fold_*/predictions.csv")))
        moments.append(round(moment, 1))
        print(f"killed after {moment:.1f} s, {done} cells done", flush=True)
    run_to_end(flags.out, workdir)
    apart = [
        f"{place.name}/{name}"
        for place in sorted(flags.out.glob("killed_*[0-9]"))
        for name in TABLES
        if (place / name).read_bytes() != (reference / name).read_bytes()
    ]
    result |= {"kills_after_s": moments, "outlived": outlived, "differences": apart}
    conditions.report({}, result)


if __name__ == "__main__":
    main(sys.argv[1:])
