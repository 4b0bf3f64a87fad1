"""Cost of a configuration: parameters counted by hand, and figures that are there."""

import json
from pathlib import Path

import pytest

from fof_jax.cli.main import main
from fof_jax.models import vit

ROOT = Path(__file__).parents[2]


def measured(tmp_path, argument, *words):
    out = tmp_path / f"{argument}.json"
    flags = [
        f"--config={ROOT}/configs/comparison.py:{argument}",
        "--config.data.regions=18",
        "--config.folds=2",
        "--config.batch_size=4",
        "--config.eval_batch_size=4",
        "--config.encoder=mu/16",
        *words,
    ]
    assert main(["cost", *flags, f"--out={out}"]) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return f"--config.data.dir={tmp_path_factory.mktemp('data')}"


def vit_parameters():
    """mu/16 at 64 pixels with a head of three outputs, by hand."""
    size, patch = vit.parse_variant("mu/16")
    width, mlp = size.width, size.mlp
    block = 4 * width * (width + 1) + 2 * width * mlp + mlp + width + 4 * width
    embed = (3 * patch**2 + 1) * width + (64 // patch) ** 2 * width
    return size.depth * block + embed + 2 * width + 3 * (width + 1)


@pytest.mark.slow
def test_fof_is_tested_without_its_alignment_head(data, tmp_path):
    cost = measured(tmp_path, "fof", data)
    # The classifier has a fourth output for the negative view.
    extra = vit.parse_variant("mu/16")[0].width + 1
    assert cost["test_parameters"] == vit_parameters() + extra
    assert cost["parameters"] > cost["test_parameters"]
    assert cost["needs_at_test"] == ["image"]
    for key in ("step_gflop", "test_gflop_per_image", "step_s", "test_images_per_s"):
        assert cost[key] > 0, key
    # A step of four images has three views, each forward and backward: nine forward
    # passes, less the patch embedding's gradient by the images, which is not taken.
    forward = cost["test_gflop_per_image"]
    embedding = 2 * 4**2 * (3 * 16**2) * vit.parse_variant("mu/16")[0].width / 1e9
    least = 9 - 3 * embedding / forward
    assert least < cost["step_gflop"] / (4 * forward) < 40
    assert cost["peak_bytes"] > cost["step_bytes"] > 0


@pytest.mark.slow  # two networks and their losses are compiled: 30 s
def test_a_student_is_tested_as_the_baseline(data, tmp_path):
    cost = measured(tmp_path, "distill.kl", data)
    assert cost["test_parameters"] == pytest.approx(vit_parameters(), rel=0.1)
    assert cost["needs_at_test"] == ["image"]
