"""Mutates tables and image files, runs them through the commands, checks every row.

    python benchmarks/robustness/fuzz_inputs.py --checkpoint=runs/phantom --each=300

Of 300 tables a third are images for `predict`, a third cohorts for `data check`, a
third predictions for `eval`; the image files lie in folders for `predict`. A case
counts as graded as meant, refused with a message, or rows with a reason. Anything else
ends the program: an exception, a refusal without a message or with half an output, a
row that was lost, or a probability that is not that of the named file. The last line
is JSON.
"""

import argparse
import collections
import contextlib
import csv
import functools
import io
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
from absl import flags, logging
from PIL import Image

from benchmarks import conditions
from benchmarks.robustness.mutations import mutated_image, mutated_table
from fof_jax.cli.main import main as run_command
from fof_jax.inference import load
from fof_jax.inference.predictor import Predictor

MEANT, REFUSED, REASON = (
    "graded as meant",
    "refused with a message",
    "rows with a reason",
)
FOLDER = 50  # image files in one folder
TOLERANCE = 1e-5  # of a probability, between the table and the file alone
CLASSES = ("II", "III", "IV")


class Fault(Exception):
    """A case that ended in none of the three ways."""


def call(*words: object) -> tuple[int, str, str]:
    """Runs a command in this process: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def require(holds: object, what: str) -> None:
    """Raises Fault unless a condition holds."""
    if not holds:
        raise Fault(what)


def refused(code: int, err: str, out: Path | None) -> bool:
    """Whether a command refused its input; then there is a message and no output."""
    if code != 2:
        return False
    message = err.strip().rpartition("error: ")[2]
    require(len(message) > 20, f"refused without a message: {err!r}")
    written = out is not None and out.exists() and [p for p in out.iterdir()
                                                    if p.name[0] != "."]  # fmt: skip
    require(not written, f"refused, and wrote {written}")
    return True


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of an output table."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def count_records(data: bytes) -> int:
    """Records below the header, counted without this package's reader."""
    text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    first = text.lstrip().splitlines()[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    records = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    return sum(any(cell.strip() for cell in record) for record in records) - 1


class Tables:
    """Tables of images, cohorts and predictions, mutated.

    Attributes:
      folder: images 00.png … and the tables.
      expected: probabilities of each image by its name.
    """

    def __init__(self, model: Predictor, checkpoint: Path, folder: Path):
        self.checkpoint, self.folder = checkpoint, folder
        rng = np.random.default_rng(0)
        self.names = [f"{i:02d}.png" for i in range(12)]
        for name in self.names:
            pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name)
        prob = model.predict([folder / name for name in self.names]).prob
        self.expected = dict(zip(self.names, prob, strict=True))
        rows = [
            f"{name},P{i // 2},{CLASSES[i // 2 % 3]},{i // 2 % 2}"
            for i, name in enumerate(self.names)
        ]
        self.cohort = "\n".join(["image,patient,grade,idh", *rows]) + "\n"
        rows = [
            f"P{i // 2},{name},{CLASSES[i // 2 % 3]}," + ",".join(f"{p:.6f}" for p in q)
            for i, (name, q) in enumerate(zip(self.names, prob, strict=True))
        ]
        head = "patient,image,y," + ",".join(f"p_{name}" for name in CLASSES)
        self.predictions = "\n".join([head, *rows]) + "\n"

    def case(self, number: int, rng: random.Random) -> str:
        """One mutated table, of one of the three kinds."""
        kind = (self.images, self.checked, self.evaluated)[number % 3]
        return kind(self.folder / f"t{number}.csv", rng)

    def images(self, path: Path, rng: random.Random) -> str:
        """A table for `predict`."""
        data = mutated_table(self.cohort.encode(), rng)
        path.write_bytes(data)
        out = path.with_suffix("")
        code, _, err = call(
            "predict", f"--checkpoint={self.checkpoint}", f"--images={path}",
            f"--out={out}", "--no_pictures",
        )  # fmt: skip
        if refused(code, err, out):
            return REFUSED
        rows = read_rows(out / "predictions.csv")
        require(len(rows) == count_records(data), f"{len(rows)} rows of {path}")
        for row in rows:
            if row["error"]:
                continue
            name = (path.parent / row["image"]).resolve().name
            got = [float(row[f"p_{name}"]) for name in CLASSES]
            require(np.allclose(got, self.expected[name], atol=TOLERANCE), str(row))
        failed = sum(bool(row["error"]) for row in rows)
        require(code == (1 if failed == len(rows) else 0), f"exit code {code}")
        return REASON if failed else MEANT

    def checked(self, path: Path, rng: random.Random) -> str:
        """A cohort table for `data check`."""
        data = mutated_table(self.cohort.encode(), rng)
        path.write_bytes(data)
        code, out, err = call(
            "data", "check", "--config=cohort", f"--config.data.table={path}",
            "--config.data.biomarkers=('idh',)", "--config.data.image_size=64",
            "--config.folds=2", f"--config.data.dir={path.parent}/data",
        )  # fmt: skip
        if refused(code, err, None):
            return REFUSED
        count = count_records(data)
        require(f"{count} images of" in out, f"{count} rows in {path}: {out}")
        return MEANT

    def evaluated(self, path: Path, rng: random.Random) -> str:
        """A table of predictions for `eval`."""
        data = mutated_table(self.predictions.encode(), rng)
        path.write_bytes(data)
        out = path.with_suffix(".json")
        code, printed, err = call("eval", f"--predictions={path}", f"--out={out}")
        if refused(code, err, None):
            require(not out.exists(), f"refused, and wrote {out}")
            return REFUSED
        results = json.loads(out.read_text(encoding="utf-8"))
        count = count_records(data)
        require(results["rows"] == count, f"{results['rows']} rows of {path}")
        left_out = results["failed"] + results["unlabelled"]
        counted = int(np.sum(results["units"]["region"]["confusion"]))
        require(counted + left_out == count, f"{counted} of {count} counted in {path}")
        require(not left_out or "left out" in printed, f"{left_out} without a word")
        return REASON if left_out else MEANT


def image_folder(
    model: Predictor, checkpoint: Path, folder: Path, numbers: range, seed: int
) -> collections.Counter[str]:
    """Outcomes of a folder of mutated image files, graded at once."""
    folder.mkdir()
    meant = {}
    for number in numbers:
        rng = random.Random(f"{seed} image {number}")
        name, data, pixels = mutated_image(number, rng)
        (folder / name).write_bytes(data)
        meant[name] = pixels
    out = folder.with_name(f"{folder.name}-out")
    code, _, err = call(
        "predict", f"--checkpoint={checkpoint}", f"--images={folder}", f"--out={out}",
        "--no_pictures",
    )  # fmt: skip
    require(not refused(code, err, out), f"{folder} was refused: {err}")
    rows = {row["image"]: row for row in read_rows(out / "predictions.csv")}
    require(set(rows) == set(meant), f"{set(rows) ^ set(meant)} of {folder}")
    counts: collections.Counter[str] = collections.Counter()
    for name, pixels in meant.items():
        row = rows[name]
        if row["error"]:
            require(pixels is None, f"{name} is intact, and refused: {row['error']}")
            counts[REASON] += 1
            continue
        prob = [float(row[f"p_{name}"]) for name in CLASSES]
        require(abs(sum(prob) - 1) < 1e-4, f"{name}: {prob}")
        if pixels is not None:
            expected = model.predict([pixels]).prob[0]
            require(np.allclose(prob, expected, atol=TOLERANCE), f"{name}: {prob}")
        counts[MEANT if pixels is not None else "graded, content unknown"] += 1
    return counts


def outcomes(checkpoint: Path, each: int, seed: int, scratch: Path) -> dict[str, Any]:
    """Number of cases by outcome, for tables and for image files.

    Raises:
      Fault: a case ended in none of the ways that are allowed.
    """
    once = functools.cache(load.load)  # a model is loaded and compiled once
    original, load.load = load.load, lambda path: once(Path(path))
    try:
        model = load.load(checkpoint)
        (scratch / "tables").mkdir()
        tables = Tables(model, checkpoint, scratch / "tables")
        counts: dict[str, collections.Counter[str]] = {
            "tables": collections.Counter(), "images": collections.Counter()
        }  # fmt: skip
        for number in range(each):
            rng = random.Random(f"{seed} table {number}")
            try:
                counts["tables"][tables.case(number, rng)] += 1
            except Exception as error:
                raise Fault(f"table {number} of seed {seed}: {error}") from error
        for first in range(0, each, FOLDER):
            numbers = range(first, min(first + FOLDER, each))
            folder = scratch / f"images{first}"
            counts["images"] += image_folder(model, checkpoint, folder, numbers, seed)
        return {kind: dict(count) for kind, count in counts.items()}
    finally:
        load.load = original


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--each", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    logging.set_verbosity(logging.FATAL)
    result: dict[str, Any] = conditions.conditions()
    with tempfile.TemporaryDirectory() as scratch:
        result |= outcomes(given.checkpoint, given.each, given.seed, Path(scratch))
    conditions.report({}, result | {"each": given.each, "seed": given.seed})


if __name__ == "__main__":
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    main(sys.argv[1:])
