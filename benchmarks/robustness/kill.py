"""Kills runs in known phases, resumes them, and compares the final results.

    python benchmarks/robustness/kill.py --kills=30 --terms=10 --pairs=5 --out=/tmp/kill
    python benchmarks/robustness/kill.py --student=distill.crd --kills=12 --terms=0 \\
        --pairs=0 --pair-terms=0 --out=/tmp/kill

The reference is an uninterrupted five-fold run of the phantom. The same command is then
started repeatedly and ended with SIGKILL, with SIGTERM, and as two processes of which
one is killed; finally it runs to the end. Parameters, results.json, predictions and
metrics.jsonl have to equal the reference's byte for byte.

--student trains a row of configs/comparison.py on two folds, with a teacher in a shared
folder: the signals hit its two stages and the changes between them, and the teachers
are compared, too.

The process records its current phase (kill_child.py). It is suspended, the phase is
read, then it gets the signal, so that the phase is known. The last line is JSON.
"""

import argparse
import collections
import random
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from absl import logging

from benchmarks import conditions
from benchmarks.robustness.kill_runs import (
    Case,
    Hit,
    hit,
    run_to_end,
    send,
    started,
    teachers,
)
from fof_jax.training import weights


def plan(trainings: int, count: int, rng: random.Random) -> list[tuple[str, int]]:
    """Phase and occurrence after a start, for each signal.

    Every training is interrupted several times, the last time at its end.
    """
    each = max(count // trainings, 4)
    targets = []
    for _ in range(-(-count // each)):
        middle = ["save", "evaluation", *["step", "save"] * each][: each - 1]
        rng.shuffle(middle)
        targets += [*middle, "fold change"]
    numbers = {"save": 2, "evaluation": 1, "step": 1, "fold change": 1}
    return [(target, rng.randint(1, numbers[target])) for target in targets[:count]]


def series(
    case: Case,
    out: Path,
    name: str,
    number: signal.Signals,
    count: int,
    processes: int,
    seed: int,
) -> tuple[list[Hit], Path]:
    """One run that is interrupted `count` times and then finished."""
    rng = random.Random(seed)
    workdir, hits = out / name, []
    for target, occurrence in plan(case.trainings, count, rng):
        with started(case, out, workdir, processes) as run:
            k = rng.randrange(processes)
            suspended = hit(run, k, target, occurrence, rng)
            if suspended is None:
                raise RuntimeError(f"{name} was over before {target} {occurrence}")
            hits.append(send(run, k, number, suspended))
        one = hits[-1]
        print(
            f"{name} {len(hits)}: process {k}, {one.doing}, exit codes "
            f"{one.codes}, {one.seconds:.1f} s",
            flush=True,
        )
    run_to_end(case, out, workdir, processes)
    return hits, workdir


def differences(case: Case, one: Path, other: Path) -> list[str]:
    """Files that differ byte for byte, and trainings whose parameters differ."""
    names = ["results.json", "splits.json"]
    folders = [(one / f"fold_{k}", other / f"fold_{k}") for k in range(case.folds)]
    if case.student:
        shared = sorted(p.name for p in teachers(one).iterdir() if p.name[0] != ".")
        folders += [(teachers(one) / n, teachers(other) / n) for n in shared]
    pairs = [(one / name, other / name) for name in names]
    for a, b in folders:
        pairs += [(a / n, b / n) for n in ("metrics.jsonl", "predictions.csv")]
    differing = [str(a) for a, b in pairs if a.read_bytes() != b.read_bytes()]
    for a, b in folders:
        if weights.digest(weights.read(a)) != weights.digest(weights.read(b)):
            differing.append(f"weights of {a}")
    return differing


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--pairs", type=int, default=5, help="kills of one of two")
    parser.add_argument("--pair-terms", type=int, default=3)
    parser.add_argument("--student", default="", help="a row with a teacher")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    flags = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax warns about an optional file
    flags.out.mkdir(parents=True, exist_ok=True)
    case = Case(flags.student, folds=2 if flags.student else 5)
    reference = flags.out / "reference"
    result: dict[str, Any] = conditions.conditions()
    result["uninterrupted_s"] = round(run_to_end(case, flags.out, reference), 1)
    print(f"the reference took {result['uninterrupted_s']} s", flush=True)
    plans = (
        ("kills", signal.SIGKILL, flags.kills, 1),
        ("terms", signal.SIGTERM, flags.terms, 1),
        ("pairs", signal.SIGKILL, flags.pairs, 2),
        ("pair_terms", signal.SIGTERM, flags.pair_terms, 2),
    )
    for name, number, count, processes in plans:
        if not count:
            continue
        hits, workdir = series(
            case, flags.out, name, number, count, processes, flags.seed
        )
        apart = differences(case, reference, workdir)
        moments = collections.Counter(h.doing.rpartition(" ")[0] for h in hits)
        codes = collections.Counter(code for h in hits for code in h.codes)
        print(f"{name}: {dict(moments)}, exit codes {dict(codes)}")
        print(f"{name}: differences {apart or 'none'}", flush=True)
        result[name] = {
            "moments": moments,
            "exit_codes": codes,
            "slowest_end_s": round(max(h.seconds for h in hits), 1),
            "differences": apart,
        }
    conditions.report({}, result)


if __name__ == "__main__":
    main(sys.argv[1:])
