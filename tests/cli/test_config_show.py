"""`configs` and `config show`: every field with its meaning, and what differs."""

from fof_jax.cli import config as config_flag
from fof_jax.cli.config_source import field_comments
from fof_jax.cli.main import main


def test_configs_lists_every_file_with_its_summary(capsys):
    assert main(["configs"]) == 0
    text = capsys.readouterr().out
    for name in config_flag.packaged():
        assert f"\n{name} " in f"\n{text}"
    assert "Focus on Focus on TCGA GBM-LGG" in text


def test_show_marks_what_differs(capsys):
    assert main(["config", "show", "phantom:baseline", "--config.batch_size=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("  * batch_size = 7    (gbmlgg: 4)")
    assert (
        lines[at - 1] == '    # [n] Global batch. Sec. IV-A: "with a batch size of 4".'
    )
    assert "  * method = 'vit'    (gbmlgg: 'fof')" in lines
    assert "    theta = 0.5" in lines  # equal, not marked
    assert "  * data.regions = 2000    (not in gbmlgg)" in lines


def test_show_of_a_file_lists_changes_only(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(
        '"""My cohort."""\n'
        "from fof_jax.configs import gbmlgg\n"
        "def get_config(arg=''):\n"
        "    config = gbmlgg.get_config()\n"
        "    # Small graphics card.\n"
        "    config.batch_size = 2\n"
        "    del config.views\n"
        "    return config\n"
    )
    assert main(["config", "show", str(path), "--changed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "My cohort."
    assert [line for line in lines if " = " in line] == [
        "  * batch_size = 2    (gbmlgg: 4)"
    ]
    assert "    # Small graphics card." in lines
    assert lines[-1].startswith("    views.fill, ")


def test_an_unknown_config_or_field_is_refused(capsys):
    assert main(["config", "show", "phantm"]) == 2
    assert "phantm does not exist" in capsys.readouterr().err
    assert main(["config", "show", "phantom", "--config.batchsize=2"]) == 2
    assert "Did you mean batch_size" in capsys.readouterr().err


def test_comments_are_those_beside_or_above_a_field(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "# Both.\n"
        "config.a = 1\n"
        "config.b = 2\n"
        "config.c = 3  # Beside.\n"
        "config.d = 4\n"
        "# A section.\n"
        "config.e = ConfigDict()\n"
        "config.e.f = 5\n"
        "config.g = placeholder(\n"
        "    tuple\n"
        ")  # At the end.\n"
    )
    assert field_comments(path) == {
        "a": "Both.",
        "b": "Both.",
        "c": "Beside.",
        "g": "At the end.",
    }
