"""Runs in one or two processes that are suspended in a phase, and ended by a signal."""

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


def run_to_end(case: Case, out: Path, workdir: Path, processes: int = 1) -> float:
    """Runs to the end; returns the seconds."""
    start = time.monotonic()
    with started(case, out, workdir, processes) as run:
        codes = [process.wait(2 * PHASE_TIMEOUT) for process in run.processes]
    if any(codes):
        raise RuntimeError(f"{workdir} ended with {codes}; see {workdir}.0.log")
    return time.monotonic() - start
