"""Teachers that students share: found by what determines them, trained once.

The students of a fold differ in their losses, not in their teacher. With
`config.teacher_dir` a teacher is trained in a folder of its own below that directory,
and every run that sets the same directory and would train the same teacher reads it:

    python launch.py --config=configs/comparison.py:distill.pkt \\
        --config.teacher_dir=runs/teachers --workdir=runs/pkt
    python launch.py --config=configs/comparison.py:distill.sp \\
        --config.teacher_dir=runs/teachers --workdir=runs/sp

The second trains students only. The same teacher means: the same fields of its stage,
except those that do not alter numbers (`run_fields.FREE_FIELDS`), the same pretrained
weights, table, images, fold and rows. A hash of all this names the folder, and the
fields are compared before it is used. The fields of students (`registry.stage_config`)
are removed from a teacher's config, so that it cannot depend on them.

One process trains a teacher, under a lock; others that need it wait. Whoever comes next
after an interruption resumes it. Each student's fold has `<stage>.json`, with the
folder, the identity and a digest of the weights; a student that resumes with other
weights is refused. Without `teacher_dir` a teacher lies in the fold's folder.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from fof_jax import files
from fof_jax.data import store
from fof_jax.training import multihost, preemption, weights, workdir
from fof_jax.training.fold import Rows
from fof_jax.training.run_fields import FREE_FIELDS, VALIDATION_FIELDS
from fof_jax.types import Variables

ABOUT = "teacher.json"  # in a shared teacher's folder: its identity and origin
_LOCKS = ".locks"
_POLL = 1.0  # seconds between looks at a lock that another process holds


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a stage is trained.

    Attributes:
      folder: its files.
      identity: what determines the teacher, by name; {} for a student.
      made_with: versions and machine of this process, for a shared folder.
      shared: whether other runs may use the folder.
    """

    folder: Path
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    made_with: dict[str, Any] = dataclasses.field(default_factory=dict)
    shared: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of the identity."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def place(
    stage: str,
    config: ConfigDict,
    data: store.Store,
    rows: Rows,
    number: int,
    fold_folder: Path,
) -> Place:
    """Where the teacher of a fold is or will be.

    Args:
      stage: its name, which is also that of its folder in the fold.
      config: of the stage; `teacher_dir` is read.
      data: to train on.
      rows: of the fold.
      number: of the fold.
      fold_folder: folder of the student's fold.
    """
    fields = workdir.identity(config, data)
    fields = {k: v for k, v in fields.items() if k not in FREE_FIELDS}
    if not config.validation:  # the teachers of earlier versions are found again
        fields = {k: v for k, v in fields.items() if k not in VALIDATION_FIELDS}
    if config.init.checkpoint:  # by content: it may have been copied or replaced
        start = weights.read(Path(config.init.checkpoint))
        fields["init_checkpoint"] = weights.digest(start)
    for name, part in rows._asdict().items():
        if part is not None:
            digest = hashlib.sha256(np.asarray(part, np.int64).tobytes()).hexdigest()
            fields[f"{name}_rows"] = digest
    teacher_place = Place(fold_folder / stage, fields | {"fold": number})
    if not config.teacher_dir:
        return teacher_place
    name = f"{config.method}-fold{number}-{teacher_place.digest[:16]}"
    return dataclasses.replace(
        teacher_place,
        folder=Path(config.teacher_dir) / name,
        made_with=workdir.provenance(data),
        shared=True,
    )


def claim(
    place: Place,
    held: contextlib.ExitStack,
    log: Callable[[str], None],
    stop: preemption.StopRequest,
) -> None:
    """Takes a shared teacher for this process; waits while another trains it.

    Args:
      place: a folder that is not shared is free.
      held: holds the lock until it is closed.
      log: prints a line.
      stop: pending stop signal; looked at while waiting.

    Raises:
      ValueError: the folder holds another teacher.
      preemption.Stopped: by a signal while waiting.
    """
    if not place.shared:
        return
    lock = place.folder.parent / _LOCKS / place.folder.name
    said = False
    while True:
        taken = False
        with multihost.raise_on_all():
            if multihost.is_main_process():
                try:
                    held.enter_context(files.exclusive_lock(lock, "teacher", log))
                    taken = True
                except files.LockedError as error:
                    if not said:
                        log(f"waits for {place.folder}, held by {error.holder}")
                        said = True
        if multihost.broadcast(taken):
            break
        if code := multihost.all_max(stop.code):
            raise preemption.Stopped(code)
        time.sleep(_POLL)
    with multihost.raise_on_all():
        if multihost.is_main_process():
            _describe(place, log)


def record(place: Place, trained: Variables, fold_folder: Path, stage: str) -> None:
    """Writes which teacher a student learns from, or compares with what is written.

    Args:
      place: of the teacher.
      trained: its weights.
      fold_folder: of the student.
      stage: of the teacher; the file is `<stage>.json`.

    Raises:
      ValueError: the student was begun with other weights.
    """
    path = fold_folder / f"{stage}.json"
    about = {
        "folder": os.path.relpath(place.folder, fold_folder),
        "identity": place.digest,
        "weights": weights.digest(trained),
    }
    with multihost.raise_on_all():
        if not multihost.is_main_process():
            return
        before = json.loads(path.read_text("utf-8")) if path.exists() else about
        if before["weights"] != about["weights"]:
            raise ValueError(
                f"{stage}: {place.folder} has other weights than those with which the "
                f"student in {fold_folder} was begun, from {before['folder']}. Bring "
                f"those back, or delete {fold_folder} to begin the fold anew."
            )
        if before != about or not path.exists():
            workdir.write_json(path, about)


def _describe(place: Place, log: Callable[[str], None]) -> None:
    """Writes the identity of a shared teacher, or compares it with the one there."""
    path = place.folder / ABOUT
    if not path.exists():
        document = {"identity": place.identity, "made_with": place.made_with}
        workdir.write_json(path, document)
        return
    before = json.loads(path.read_text("utf-8"))
    if before["identity"] != json.loads(json.dumps(place.identity)):
        raise ValueError(
            f"teacher_dir: {place.folder} holds another teacher than its name says "
            f"({ABOUT} was changed, or the folder was renamed). Delete it, or pass "
            "another --config.teacher_dir."
        )
    for line in workdir.version_differences(before["made_with"], place.made_with):
        log(f"warning: {place.folder}: {line}")
