"""`data check` raises what training raises; stores of several cohorts."""

import io
import shlex

import pytest

from fof_jax.cli import config as config_flag
from fof_jax.cli.data import act
from fof_jax.cli.main import main
from fof_jax.data.errors import MissingDataError
from fof_jax.data.prepare import prepare
from tests.support.cohort_files import rows_of, write_cohort_files, write_table
from tests.support.data_verb import call, config_for


def test_check_writes_nothing(tmp_path):
    write_cohort_files(tmp_path, 12)
    assert "no errors" in call("check", config_for(tmp_path))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds": 20}, "folds=20 with 6 patients"),
        (
            {"folds": 7, "scheme": "roi", "batch_size": 11},
            "batch_size: 11 is more than",
        ),
        # Three folds train on 8 images, less those of validation.
        ({"batch_size": 7, "validation": 0.1}, "batch_size: 7 is more"),
        ({"folds": 2, "validation": 0.4}, "validation=0.4 would draw"),
        ({"scheme": "fold"}, "requires a column 'fold'"),
        ({"scheme": "pickle"}, "requires a split pickle"),
    ],
)
def test_check_raises_what_training_raises(tmp_path, fields, message):
    write_cohort_files(tmp_path, 12)
    config = config_for(tmp_path)
    config.batch_size = 4
    for name, value in fields.items():
        (config.data if name in config.data else config)[name] = value
    with pytest.raises(ValueError, match=message):
        act("check", config, out=io.StringIO())


def test_check_validates_the_whole_config(tmp_path, capsys):
    """Fields that only training reads, before any image is read."""
    write_cohort_files(tmp_path, 12)
    words = ["--config=cohort", f"--config.data.table={tmp_path}/table.csv"]
    words += ["--config.data.biomarkers=('idh','EGFR')", "--config.data.image_size=20"]
    assert main(["data", "check", *words]) == 2
    assert "multiple" in capsys.readouterr().err
    words += ["--config.data.image_size=16", "--config.folds=2"]
    assert main(["data", "check", *words]) == 0
    assert "no errors" in capsys.readouterr().out


def test_unknown_labels_are_listed_with_the_flag_to_paste(tmp_path, capsys):
    rows = rows_of(12)
    for row in rows:
        row["grade"] = {"II": "G2", "III": "G3", "IV": "it's"}[row["grade"]]
    write_table(tmp_path, rows)
    words = ["--config=cohort", f"--config.data.table={tmp_path}/table.csv"]
    assert main(["data", "check", *words, "--config.data.biomarkers=()"]) == 2
    err = capsys.readouterr().err
    assert "'G2' (4), 'G3' (4), 'it's' (4)" in err
    flag = err.split("If these are the classes: ")[1].splitlines()[0]
    (pasted,) = shlex.split(flag)
    assert config_flag.load([words[0], pasted]).data.classes == ("G2", "G3", "it's")


def test_stores_of_two_cohorts_lie_side_by_side(tmp_path):
    """Under names of their own; under one name, the second is announced."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_cohort_files(tmp_path / name, 12)
        for image in (tmp_path / name / "img").iterdir():
            image.rename(image.with_name(f"{name}-{image.name}"))
        table = tmp_path / name / "table.csv"
        table.write_text(table.read_text().replace("img/", f"img/{name}-"))
    tables = {name: str(tmp_path / name / "table.csv") for name in ("a", "b")}
    for name, table in tables.items():
        call("build", config_for(tmp_path, name=f"clinic_{name}", table=table))
    first = prepare(config_for(tmp_path, name="clinic_a"))
    assert first.images[0] == "img/a-000.png"
    assert prepare(config_for(tmp_path, name="clinic_b")).images[0] == "img/b-000.png"
    output = call("build", config_for(tmp_path, name="clinic_a", table=tables["b"]))
    assert "held another cohort, of 12 other images" in output
    assert "pass --config.data.name=NAME" in output
    # A run that recorded the first build still opens it, by its hash.
    config = config_for(tmp_path, name="clinic_a")
    assert prepare(config).images[0] == "img/b-000.png"
    out = io.StringIO()
    again = prepare(config, out=out, build=first.folder.name)
    assert again.images == first.images
    assert f"build {first.folder.name}, which the run recorded" in out.getvalue()
    with pytest.raises(MissingDataError, match="no store 'clinic_c'.* data build"):
        prepare(config_for(tmp_path, name="clinic_c"))
