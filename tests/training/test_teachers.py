"""Shared teachers: what identifies them, locks, and the record of a student.

The identity is compared with the written list of what may and may not change a teacher.
"""

import contextlib
import json
import os
import threading
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from fof_jax import files
from fof_jax.configs import comparison
from fof_jax.data import store
from fof_jax.methods import registry
from fof_jax.training import preemption, teachers, weights
from fof_jax.training.fold import Rows
from fof_jax.types import Variables

ROWS = Rows(np.arange(12), np.arange(12, 18))


@pytest.fixture(scope="module")
def data(small_run, small_data):
    return store.open_store(small_data, "phantom")


def config_of(row: str, **fields) -> ConfigDict:
    """Config of the teacher's stage of a row, in which `fields` were set."""
    config = comparison.get_config(row)
    config.teacher_dir = "shared"
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict(fields)
    return registry.stage_config(config, "teacher")


def place_of(data, folder, row="distill.pkt", rows=ROWS, number=0, **fields):
    config = config_of(row, **fields)
    return teachers.place("teacher", config, data, rows, number, folder)


STUDENTS_FIELDS = [
    {"distill.beta": 0.5},
    {"distill.as_published": True},
    {"student.batch_size": 8},
    {"save_every": 7, "log_every": 3, "eval_every": 1},
    {"fold": 1, "data.dir": "elsewhere"},
    {"data.threads": 7, "attention": "chunked", "remat": "block"},
]


@pytest.mark.parametrize("fields", STUDENTS_FIELDS)
def test_students_share_a_teacher(data, tmp_path, fields):
    expected = place_of(data, tmp_path / "a").folder
    assert place_of(data, tmp_path / "b", "distill.hkd", **fields).folder == expected


OTHERS = [
    {"seed": 1},
    {"epochs": 7},
    {"batch_size": 8},
    {"teacher.batch_size": 8},
    {"dgkd.decay": 0.9},
    {"optimizer.learning_rate": 1e-4},
    {"encoder": "mu/16"},
    {"augment.flip_horizontal": 0.0},
    {"data.stain": "none"},
]


@pytest.mark.parametrize("fields", OTHERS)
def test_another_configuration_is_another_teacher(data, tmp_path, fields):
    expected = place_of(data, tmp_path).folder
    assert place_of(data, tmp_path, **fields).folder != expected


def test_another_fold_split_or_start_is_another_teacher(data, tmp_path):
    def start(name: str, value: float) -> str:
        params = {"w": np.full((2,), value, np.float32)}
        weights.write(tmp_path / name, Variables(params=params, state={}), {})
        return str(tmp_path / name)

    one, same, other = start("one", 1.0), start("same", 1.0), start("other", 2.0)
    turned = Rows(ROWS.train[::-1], ROWS.test)
    places = [
        place_of(data, tmp_path),
        place_of(data, tmp_path, number=1),
        place_of(data, tmp_path, rows=Rows(ROWS.train[:-1], ROWS.test)),
        place_of(data, tmp_path, rows=turned),
        place_of(data, tmp_path, **{"init.checkpoint": one}),
        place_of(data, tmp_path, **{"init.checkpoint": other}),
    ]
    assert len({p.folder for p in places}) == len(places)
    copied = place_of(data, tmp_path, **{"init.checkpoint": same})
    assert copied.folder == places[4].folder  # by content, not by path


def test_a_teacher_has_no_fields_of_its_student():
    config = config_of("distill.pkt")
    assert not {"distill", "student", "teacher", "stages"} & set(config)
    assert config.method == "distill.dgkd"


def test_without_a_shared_folder_it_lies_in_the_fold(data, tmp_path):
    place = place_of(data, tmp_path / "fold_0", teacher_dir=None)
    assert place.folder == tmp_path / "fold_0/teacher"
    assert not place.shared


def shared(data, tmp_path, **fields):
    return place_of(
        data, tmp_path / "fold_0", teacher_dir=str(tmp_path / "all"), **fields
    )


def test_waits_for_the_process_that_trains_it_and_says_so(data, tmp_path):
    place = shared(data, tmp_path)
    lock = tmp_path / "all/.locks" / place.folder.name
    lines, stop = [], preemption.StopRequest()
    holder = contextlib.ExitStack()
    holder.enter_context(files.exclusive_lock(lock, "it", print))
    freed = threading.Timer(0.3, holder.close)
    freed.start()
    start = time.monotonic()
    with contextlib.ExitStack() as held:
        teachers.claim(place, held, lines.append, stop)
        assert time.monotonic() - start > 0.25
        with pytest.raises(files.LockedError), files.exclusive_lock(lock, "it", print):
            pass
    assert len(lines) == 1
    assert f"waits for {place.folder}, held by process {os.getpid()}" in lines[0]
    freed.join()


def test_a_signal_ends_the_wait(data, tmp_path):
    place = shared(data, tmp_path)
    lock = tmp_path / "all/.locks" / place.folder.name
    stop = preemption.StopRequest()
    stop.code = 143
    with (
        files.exclusive_lock(lock, "it", print),
        contextlib.ExitStack() as held,
        pytest.raises(preemption.Stopped),
    ):
        teachers.claim(place, held, print, stop)


def claim(place):
    with contextlib.ExitStack() as held:
        teachers.claim(place, held, print, preemption.StopRequest())


def test_a_renamed_folder_is_not_used(data, tmp_path):
    place, other = shared(data, tmp_path), shared(data, tmp_path, seed=1)
    claim(other)
    other.folder.rename(place.folder)
    with pytest.raises(ValueError, match="holds another teacher than its name says"):
        claim(place)


def test_other_versions_are_told(data, tmp_path, capsys):
    place = shared(data, tmp_path)
    claim(place)
    path = place.folder / "teacher.json"
    about = json.loads(path.read_text())
    about["made_with"]["packages"]["jax"] = "0.0.1"
    path.write_text(json.dumps(about))
    claim(place)
    assert "jax 0.0.1 then" in capsys.readouterr().out


def test_a_student_keeps_the_teacher_with_which_it_was_begun(data, tmp_path):
    place, fold = shared(data, tmp_path), tmp_path / "fold_0"
    trained = Variables(params={"w": np.ones(3, np.float32)}, state={})
    teachers.record(place, trained, fold, "teacher")
    about = json.loads((fold / "teacher.json").read_text())
    assert about["identity"] == place.digest
    assert (fold / about["folder"]).resolve() == place.folder.resolve()
    teachers.record(place, trained, fold, "teacher")
    for params in (
        {"w": np.float32([1, 1, np.nextafter(np.float32(1), np.float32(2))])},
        {"v": np.ones(3, np.float32)},
        {"w": np.ones((3, 1), np.float32)},
    ):
        changed = Variables(params=params, state={})
        with pytest.raises(ValueError, match="has other weights than those with which"):
            teachers.record(place, changed, fold, "teacher")
    assert json.loads((fold / "teacher.json").read_text()) == about
