"""Command line: commands, configs, overrides, error messages, program names."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import fof_jax
from fof_jax.cli import config
from fof_jax.cli.main import COMMANDS, main
from fof_jax.cli.train import default_workdir

ROOT = Path(__file__).parents[2]
PHANTOM = f"--config={ROOT}/configs/phantom.py"


def test_gbmlgg_without_data_lists_what_to_download(tmp_path, capsys):
    words = [f"--config={ROOT}/configs/gbmlgg.py", f"--config.data.dir={tmp_path}"]
    assert main(words) == 2
    err = capsys.readouterr().err
    for piece in ("all_st/", "all_dataset.csv", "grade_data.csv", "data build"):
        assert piece in err
    assert "Pathomic Fusion" in err
    assert "Traceback" not in err


def test_launch_in_a_subprocess(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "launch.py", f"--config={ROOT}/configs/gbmlgg.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workdir=x"], "no config. Pass --config=configs/NAME.py"),
        (["--config=configs/phantm.py"], "Did you mean configs/phantom.py?"),
        (["--config=gbmlg"], "Did you mean gbmlgg?"),
        (["--config=configs/nothing.py"], "configs/nothing.py does not exist"),
        (["--config=nothing"], "nothing does not exist"),
        ([f"{PHANTOM}:wo"], "argument 'wo' does not exist. Expected one of wo_frl"),
        ([PHANTOM, "--config.epohcs=3"], "no field 'epohcs'. Did you mean epochs?"),
        ([PHANTOM, "--config.image_size=3"], "Did you mean data.image_size"),
        ([PHANTOM, "--config.epochs=many"], "config:"),
        ([PHANTOM, "extra"], "unrecognized arguments: extra"),
        ([PHANTOM, "--workdri=x"], "unrecognized arguments: --workdri=x"),
        ([PHANTOM, "--workdri=x"], "Did you mean --workdir?"),
        (["trian", PHANTOM], "unknown command 'trian'. Did you mean train?"),
        (["help", "pedict"], "Did you mean predict?"),
        (["serv"], "Did you mean serve? Expected one of train"),
        (["parity"], "--golden"),
        (["eval"], "--predictions"),
        (["data", PHANTOM], "action"),
        (["data", "bild", PHANTOM], "Did you mean build?"),
        (["export", "--to=stablhlo"], "Did you mean stablehlo?"),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(capsys, words, message):
    assert main(words) == 2
    caught = capsys.readouterr()
    assert message in caught.err
    assert "Traceback" not in caught.err
    assert caught.out == ""


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out.replace(
        "python launch.py --config", "python launch.py train --config"
    )
    assert re.search(rf"\npython launch.py {command}\b", text)


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help_lists_every_command(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


def test_help_of_a_command_is_its_help(capsys):
    assert main(["help", "predict"]) == 0
    helped = capsys.readouterr().out
    assert main(["predict", "--help"]) == 0
    assert capsys.readouterr().out == helped
    assert "--checkpoint" in helped


@pytest.mark.parametrize(
    ("command", "platform"),
    [
        ("doctor", "foo"),
        ("predict", "cuda"),
        # A process each; the verb and the platform meet nowhere in the code.
        pytest.param("doctor", "cuda", marks=pytest.mark.slow),
        pytest.param("predict", "foo", marks=pytest.mark.slow),
    ],
)
def test_a_platform_that_is_not_there_is_one_message(command, platform, tmp_path):
    words = {
        "doctor": [PHANTOM],
        "predict": [f"--checkpoint={ROOT}/tests/golden/run_0_1", f"--out={tmp_path}/o",
                    f"--images={ROOT}/docs"],
    }[command]  # fmt: skip
    if command == "predict":
        from PIL import Image

        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        words[-1] = f"--images={tmp_path}"
    done = subprocess.run(
        [sys.executable, ROOT / "launch.py", command, *words],
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    assert f"JAX_PLATFORMS is {platform}" in done.stdout + done.stderr
    assert done.returncode == (1 if command == "doctor" else 2)


@pytest.mark.parametrize("program", ["fof", "python -m fof_jax"])
def test_messages_name_the_program_that_was_started(program, tmp_path, capsys):
    """Configurations are named, not given as files of a checkout."""
    assert main(["--workdir=x"], program=program) == 2
    assert "Pass --config=NAME, e.g. --config=phantom;" in capsys.readouterr().err
    words = ["--config=gbmlgg", f"--config.data.dir={tmp_path}"]
    assert main(words, program=program) == 2
    assert f"{program} data build --config=gbmlgg" in capsys.readouterr().err
    assert main(["data", "--help"], program=program) == 0
    out = capsys.readouterr().out
    assert f"usage: {program} data " in out
    assert f"\n{program} data check --config=cohort " in out
    assert "launch.py" not in out


def test_python_dash_m_starts_the_same_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fof_jax", "help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("python -m fof_jax [COMMAND] FLAGS")


def test_the_version_is_that_of_the_citation(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fof-jax {fof_jax.__version__}\n"
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited is not None
    assert cited[1] == fof_jax.__version__


def test_overrides_keep_their_types():
    loaded = config.load(
        [
            PHANTOM,
            "--config.data.classes=('a','b')",
            "--config.fold=1",
            "--config.data.color=False",
            "--config.optimizer.learning_rate=1e-3",
            "--config.augment.crop_area=(0.5,1.0)",
        ]
    )
    assert loaded.data.classes == ("a", "b")
    assert loaded.fold == 1
    assert loaded.data.color is False
    assert loaded.optimizer.learning_rate == 1e-3
    assert loaded.augment.crop_area == (0.5, 1.0)


def test_a_config_by_name_and_as_a_separate_word():
    words, rest = config.separate(["--config", "phantom:baseline", "--workdir=x"])
    assert rest == ["--workdir=x"]
    assert config.load(words).method == "vit"
    assert config.name_of(words) == "phantom:baseline"
    assert default_workdir("phantom:baseline") == Path("runs/phantom-baseline")


@pytest.mark.parametrize("name", ["gbmlgg", "cohort", "phantom"])
@pytest.mark.parametrize("argument", ["", ":wo_frl", ":wo_mca", ":baseline"])
def test_every_config_loads_and_is_locked(name, argument):
    loaded = config.load([f"--config={name}{argument}"])
    assert loaded.is_locked
    assert loaded.method == ("vit" if argument == ":baseline" else "fof")
    assert loaded.frl == (argument != ":wo_frl")
    assert loaded.lambda_mca == (0.0 if argument == ":wo_mca" else 0.2)


def test_the_papers_numbers():
    c = config.load(["--config=gbmlgg"])
    assert (c.epochs, c.batch_size, c.folds, c.encoder) == (70, 4, 5, "Ti/16")
    assert (c.theta, c.tau, c.lambda_frl, c.lambda_mca) == (0.5, 0.07, 0.2, 0.2)
    o = c.optimizer
    assert (o.learning_rate, o.beta1, o.beta2, o.weight_decay) == (
        1e-4,
        0.9,
        0.999,
        0.01,
    )
    assert (o.warmup_epochs, c.cam.block, c.data.image_size) == (0, -2, 1024)
    assert c.data.biomarkers == ("idh", "codeletion", "PTEN", "EGFR", "CARD11", "FGFR2")
    assert not c.mca.normalize_positives


def test_the_authors_numbers():
    c = config.load(["--config=gbmlgg_release"])
    assert c.is_locked
    assert (c.method, c.epochs, c.batch_size, c.folds) == ("release", 70, 4, 5)
    assert (c.theta, c.tau, c.cam.block, c.layer_norm_eps) == (0.5, 0.07, -2, 1e-12)
    weights = (c.lambda_region, c.lambda_dis_gene, c.lambda_float_gene, c.lambda_neg)
    assert weights == (0.2, 0.2, 5.0, 1.0)
    assert (c.ema_decay, c.world_size_emulated) == (0.999, 2)
    assert c.optimizer.warmup_epochs == 15
    assert c.data.float_markers == ("10q", "10p", "7p", "7q")
    assert (c.data.scheme, c.data.label_transform, c.seed) == ("roi", "raw", 42)
    # Fields of losses that only the paper has are removed.
    assert not {"frl", "lambda_frl", "lambda_mca", "mca"} & set(c)
    with pytest.raises(ValueError, match="argument 'wo_frl' does not exist"):
        config.load(["--config=gbmlgg_release:wo_frl"])
    phantom = config.load(["--config=phantom:release"])
    assert (phantom.method, phantom.data.name) == ("release", "phantom")
    assert phantom.paper_row is None


def test_the_sizes_and_rows_of_the_phantom():
    first, tables, study, compared = (
        config.load([f"--config={name}"])
        for name in ("phantom", "phantom:tables", "phantom:study-wo_frl", "comparison")
    )
    assert (first.frl, tables.frl, study.frl) == (True, True, False)
    assert study.data.regions * study.epochs > tables.data.regions * tables.epochs
    # The published tables have this encoder, schedule and loop.
    for field in ("encoder", "epochs", "unroll", "optimizer"):
        assert compared[field] == tables[field] != first[field]
    large = config.load(["--config=phantom:large-baseline"])
    assert (large.method, large.encoder, large.data.image_size) == (
        *("vit", "Ti/16"),
        1024,
    )
    for wrong in ("wo_frl-study", "study-", "study-large", "small"):
        with pytest.raises(ValueError, match=f"argument '{wrong}' does not exist"):
            config.load([f"--config=phantom:{wrong}"])


@pytest.mark.parametrize("name", ["gbmlgg", "gbmlgg_release"])
def test_every_field_has_a_comment(name):
    lines = (ROOT / f"configs/{name}.py").read_text().splitlines()
    body = lines[next(i for i, x in enumerate(lines) if x.startswith("def get")) :]
    for i, line in enumerate(body):
        if line.strip().startswith("config.") and "= ConfigDict()" not in line:
            near = [line, *body[max(i - 3, 0) : i]]
            assert any("#" in x for x in near), line


def test_printed_commands_name_the_program(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{name}.png,{name},{'II' if name < 'c' else 'III'}" for name in "abcd"]
    Path("t.csv").write_text("\n".join(["image,patient,grade", *rows]))
    for name in "abcd":
        Image.new("RGB", (32, 32)).save(f"{name}.png")
    assert main(["configs"], program="fof") == 0
    assert main(["data", "init", "t.csv"], program="fof") == 0
    told = capsys.readouterr().out
    assert "fof config show NAME" in told
    assert "  fof data build --config=t.py" in told
    assert "launch.py" not in told


def test_a_closed_pipe_ends_without_a_message():
    command = f"{sys.executable} -m fof_jax config show phantom | head -1; "
    done = subprocess.run(
        ["bash", "-c", command + "exit ${PIPESTATUS[0]}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    assert done.returncode in (0, 141)  # 0: written before the pipe was closed
    assert done.stderr == ""
