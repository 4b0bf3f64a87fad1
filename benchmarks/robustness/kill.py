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
import contextlib
import dataclasses
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from absl import logging

from benchmarks import conditions
from fof_jax.training import weights

ROOT = Path(__file__).parents[2]
WORDS = [
    "--config.data.regions=40",
    "--config.encoder=mu/16",
    "--config.epochs=6",
    "--config.batch_size=4",
    "--config.eval_batch_size=4",
    "--config.eval_every=1",
    "--config.save_every=2",
    "--config.log_every=1",
]
PHASE_TIMEOUT = 300  # seconds for a run to reach a phase, or its end
EXIT_TIMEOUT = 60  # seconds to exit after a SIGTERM, or the loss of another process
# Maximum delay of the signal after the start of a phase, in seconds. "step" is any
# moment of training; the others are nearly always hit.
WITHIN = {"step": 2.0, "save": 0.06, "evaluation": 0.03, "fold change": 0.6}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
      student: a row of configs/comparison.py that has a teacher; "" for FoF.
      folds: number of folds.
    """

    student: str
    folds: int

    @property
    def trainings(self) -> int:
        """Trainings in a run: folds times stages."""
        return self.folds * (2 if self.student else 1)

    def words(self, workdir: Path) -> list[str]:
        """Flags of the run, but those of several processes."""
        config = f"comparison.py:{self.student}" if self.student else "phantom.py"
        own = [f"--config={ROOT}/configs/{config}", f"--config.folds={self.folds}"]
        if self.student:
            own.append(f"--config.teacher_dir={teachers(workdir)}")
        return own + WORDS


def teachers(workdir: Path) -> Path:
    """Folder of the shared teachers of a run."""
    return Path(f"{workdir}-teachers")


@dataclasses.dataclass(frozen=True)
class Run:
    """Processes of one run, and the files with their current phases."""

    processes: list[subprocess.Popen]
    notes: list[Path]

    def doing(self, k: int) -> str:
        """Current phase of process k, and its count."""
        return self.notes[k].read_text().strip() or "start 0"


@dataclasses.dataclass(frozen=True)
class Hit:
    """One signal: phase of the process, and exit codes of all processes."""

    doing: str
    codes: tuple[int, ...]
    seconds: float  # from the signal to the last process's end


@contextlib.contextmanager
def started(case: Case, out: Path, workdir: Path, count: int = 1) -> Iterator[Run]:
    """Starts a run in `count` processes, which are killed on exit."""
    words = [
        *case.words(workdir),
        f"--config.data.dir={out / 'data'}",
        f"--workdir={workdir}",
    ]
    words.append(f"--config.cpu_devices={2 // count}")
    if count > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
        words.append("--heartbeat_timeout=20")
    processes, notes = [], []
    for k in range(count):
        note = Path(f"{workdir}.{k}.doing")
        note.write_text("")
        own = [f"--process_id={k}"] if count > 1 else []
        with open(f"{workdir}.{k}.log", "a") as log:
            processes.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        str(Path(__file__).with_name("kill_child.py")),
                        str(note),
                    ]
                    + ["train", *words, *own],
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        notes.append(note)
    try:
        yield Run(processes, notes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def until(condition: Callable[[], bool], run: Run) -> bool:
    """Waits for a condition; False if the run ends before."""
    deadline = time.monotonic() + PHASE_TIMEOUT
    while not condition():
        if any(p.poll() is not None for p in run.processes):
            return False
        if time.monotonic() > deadline:
            raise TimeoutError(f"no such phase for {PHASE_TIMEOUT} s: {run.doing(0)}")
        time.sleep(0.0005)
    return True


def hit(run: Run, k: int, target: str, number: int, rng: random.Random) -> Hit | None:
    """Suspends process k in its `number`-th phase of a kind.

    Returns:
      The phase, or None if the run ended before.
    """

    def there() -> bool:
        activity, _, count = run.doing(k).rpartition(" ")
        return activity == target and int(count) >= number

    if not until(there, run):
        return None
    time.sleep(rng.uniform(0, WITHIN[target]))
    victim = run.processes[k]
    victim.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{victim.pid}/stat")
    while (state := stat.read_text().rpartition(")")[2].split()[0]) != "T":
        if state == "Z":
            return None
    return Hit(run.doing(k), (), 0.0)


def send(run: Run, k: int, number: signal.Signals, suspended: Hit) -> Hit:
    """Sends a signal to the suspended process, and waits for all to exit."""
    start = time.monotonic()
    run.processes[k].send_signal(number)
    run.processes[k].send_signal(signal.SIGCONT)
    codes = tuple(process.wait(EXIT_TIMEOUT) for process in run.processes)
    return dataclasses.replace(suspended, codes=codes, seconds=time.monotonic() - start)


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


def run_to_end(case: Case, out: Path, workdir: Path, processes: int = 1) -> float:
    """Runs to the end; returns the seconds."""
    start = time.monotonic()
    with started(case, out, workdir, processes) as run:
        codes = [process.wait(2 * PHASE_TIMEOUT) for process in run.processes]
    if any(codes):
        raise RuntimeError(f"{workdir} ended with {codes}; see {workdir}.0.log")
    return time.monotonic() - start


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
