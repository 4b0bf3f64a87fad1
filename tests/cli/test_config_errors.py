"""Config files that do not run, and names that cannot be used, through the commands."""

from pathlib import Path

import pytest

from fof_jax.cli import config
from fof_jax.cli.main import main

PHANTOM = f"--config={Path(__file__).parents[2]}/configs/phantom.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", "does not run: line 1, SyntaxError"),
        ("import nothing_here\n", "line 1, ModuleNotFoundError: No module named"),
        ("x = 1\ndef get_config(a=''):\n    return y\n", "line 3, NameError: name 'y'"),
        ("def get_config(a=''):\n    return 1 / 0\n", "line 2, ZeroDivisionError"),
        ("def get_config(a=''):\n    return None\n", "returns NoneType; expected"),
        ("x = 1\n", "get_config"),
        ("\xff", "SyntaxError"),
        (
            "from fof_jax.configs import phantom\n"
            "def get_config(a=''):\n"
            "    config = phantom.get_config()\n"
            "    with config.unlocked():\n"
            "        del config.data['stain']\n"
            "    return config\n",
            "lacks the field(s) data.stain",
        ),
    ],
)
@pytest.mark.parametrize("more", [[], ["--config.epochs=2"]])
def test_a_broken_config_is_one_message(tmp_path, capsys, text, message, more):
    (tmp_path / "mine.py").write_bytes(text.encode("latin-1"))
    assert main([f"--config={tmp_path}/mine.py", *more]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert f"{tmp_path}/mine.py" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("II,III", "data.classes is one name, 'II,III'; expected several. Quote each: "
         "--config.data.classes=\"('II','III')\""),
        ("('II',)", "expected two or more classes"),
        ("('II','ii')", "holds 'II' and 'ii'; expected each name once"),
        ("('II',' III')", "' III'; expected a name of printable characters"),
        ("('II','')", "''; expected a name"),
        ("('II',None)", "holds None; expected names"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["train"], ["data", "build"], ["doctor"]])
def test_class_names_are_checked_first(command, value, message, tmp_path, capsys):
    words = [PHANTOM, f"--config.data.dir={tmp_path}", f"--config.data.classes={value}"]
    assert main([*command, *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_class_names():
    words = [PHANTOM, "--config.data.classes=2,3,4"]
    assert config.load(words).data.classes == ("2", "3", "4")
