"""Images in device memory give the run of `data.cache=ram`, byte for byte.

The reference is the ordinary run of `finished`: two devices, with checkpoints. Refusals
name both figures.
"""

import shutil

import jax
import numpy as np
import pytest

from fof_jax.cli import config as config_flag
from fof_jax.cli.main import main
from fof_jax.data import prepare
from fof_jax.training import device_cache, doctor
from tests.support.small_runs import RESUMABLE, assert_same, launch, words

DEVICE = "--config.data.cache=device"


@pytest.mark.slow
def test_a_run_from_device_memory_is_the_run_from_ram(data, finished, tmp_path):
    assert launch(data, tmp_path / "run", DEVICE) == 0
    assert_same(tmp_path / "run", finished)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_device_memory(data, finished, tmp_path):
    """A fold killed after its second checkpoint, and one that had not begun."""
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "fold_1")
    (run / "results.json").unlink()
    (run / "fold_0/predictions.csv").unlink()
    shutil.rmtree(run / "fold_0/checkpoints/6")
    assert launch(data, run, DEVICE) == 0
    assert_same(run, finished)


@pytest.mark.slow  # two more runs, on one device
def test_on_one_device(data, tmp_path):
    more = ("--config.devices=1",)
    assert launch(data, tmp_path / "ram", *more) == 0
    assert launch(data, tmp_path / "device", *more, DEVICE) == 0
    assert_same(tmp_path / "device", tmp_path / "ram")


def test_what_does_not_fit_is_refused_with_both_figures(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(device_cache, "room", lambda _: 2**19)
    assert main(words(data, tmp_path / "run", DEVICE)) == 2
    # 24 images of 64 x 64 x 3 bytes are 294,912, more than half of 524,288.
    message = capsys.readouterr().err
    assert "needs 0.00 GiB on each of 2 device(s); 0.00 GiB are free" in message
    assert not (tmp_path / "run").exists()


def test_crops_are_refused(data):
    config = config_flag.load([*RESUMABLE, f"--config.data.dir={data}", DEVICE])
    config.data.train_view = "crop"
    opened = prepare.prepare(config)  # images of 64 pixels
    with pytest.raises(ValueError, match="crops are read from images of their stored"):
        device_cache.require_whole_images(opened, 32)


def test_doctor_says_whether_it_fits(data, monkeypatch):
    config = config_flag.load([*RESUMABLE, f"--config.data.dir={data}", DEVICE])
    monkeypatch.setattr(doctor.memory_estimate, "estimate", lambda _: 0)
    found = doctor.memory(config)
    assert found.verdict == doctor.PASS
    assert "24 images take 0.00 GiB on each of 2 device(s)" in found.found
    monkeypatch.setattr(device_cache, "room", lambda _: 1)
    with pytest.raises(ValueError, match="at most half may be used"):
        doctor.memory(config)


def test_every_device_holds_the_decoded_images(data):
    config = config_flag.load([*RESUMABLE, f"--config.data.dir={data}", DEVICE])
    opened = prepare.prepare(config)
    devices = jax.local_devices()
    cache = device_cache.open_images(config, opened, [devices])
    assert cache.resident.sharding.device_set == set(devices)
    assert len(cache.resident.addressable_shards) == len(devices)
    for shard in cache.resident.addressable_shards:
        for i in (0, 23):
            expected = opened.read(i, config.data.image_size)
            np.testing.assert_array_equal(shard.data[i], expected)
