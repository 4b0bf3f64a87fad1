"""Predictions of methods that need omics: by their commands, from a table.

The reference is the run's own predictions.csv of the test fold, 1e-5.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

import fof_jax
from fof_jax.cli.main import main
from fof_jax.data import store
from fof_jax.evaluation.predictions import read_predictions

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # each row trains first


def train(folder: Path, row: str) -> Path:
    words = [
        f"--config={ROOT}/configs/comparison.py:{row}",
        f"--config.data.dir={folder}/data",
        "--config.data.regions=18",
        "--config.folds=2",
        "--config.fold=0",
        "--config.epochs=1",
        "--config.batch_size=4",
        "--config.encoder=mu/16",
        f"--workdir={folder}/{row}",
    ]
    assert main(words) == 0
    return folder / row


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of the phantom as files, `table.csv` with their omics, and SCNN's run."""
    folder = tmp_path_factory.mktemp("omics")
    train(folder, "fusion.scnn")
    data = store.open_store(folder / "data", "phantom")
    (folder / "images").mkdir()
    write_table(folder / "table.csv", data)
    for i, name in enumerate(data.images):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data.encoded(i))
    return folder


def write_table(path: Path, data, *, without=(), empty_patient=None) -> None:
    names = [n for n in data.omic_names if n not in without]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "patient", "grade", *names])
        for i, image in enumerate(data.images):
            values = dict(zip(data.omic_names, data.omics[i].tolist(), strict=True))
            if data.patients[i] == empty_patient:
                values = dict.fromkeys(values, np.nan)
            cells = ["" if np.isnan(values[n]) else repr(values[n]) for n in names]
            grade = data.classes[data.grades[i]]
            table.writerow([image, data.patients[i], grade, *cells])


def expected(run: Path):
    own = read_predictions(run / "fold_0/predictions.csv")
    return dict(zip(own.image, own.prob, strict=True))


@pytest.mark.parametrize("row", ["fusion.scnn", "omics"])
def test_predict_and_eval_give_the_runs_own_probabilities(folder, tmp_path, row):
    run = folder / row if (folder / row).exists() else train(folder, row)
    flags = [f"--checkpoint={run}", f"--table={folder}/table.csv"]
    assert main(["predict", *flags, "--no_pictures", f"--out={tmp_path}/p"]) == 0
    assert main(["eval", *flags, f"--out={tmp_path}/e"]) == 0
    own = expected(run)
    for out in ("p", "e"):
        found = read_predictions(tmp_path / out / "predictions.csv")
        assert set(own) <= set(found.image)
        for name, prob in zip(found.image, found.prob, strict=True):
            if name in own:
                np.testing.assert_allclose(prob, own[name], rtol=0, atol=1e-5)


def test_omics_decide_and_their_absence_is_an_error(folder):
    model = fof_jax.load(folder / "fusion.scnn")
    data = store.open_store(folder / "data", "phantom")
    assert model.omic_names == data.omic_names
    pixels, vector = data.native(0), data.omics[0]
    prob = model.predict(pixels, vector).prob
    # Relative, because one epoch on 9 patients may saturate the softmax.
    assert not np.allclose(
        model.predict(pixels, vector + 1).prob, prob, rtol=1e-2, atol=0
    )
    features = model.features([pixels, pixels], np.stack([vector, vector + 1]))
    assert np.abs(features[:, 0] - features[:, 1]).max() > 1e-4
    with pytest.raises(ValueError, match="needs omics at test, and none were given"):
        model.predict(pixels)
    with pytest.raises(ValueError, match=r"got shape \(79,\), expected \(80,\)"):
        model.predict(pixels, vector[1:])
    with pytest.raises(ValueError, match="got 1 rows for 2 images"):
        model.predict([pixels, pixels], vector)


def test_a_folder_or_a_lacking_table_is_told_the_columns(folder, tmp_path, capsys):
    flags = [f"--checkpoint={folder}/fusion.scnn", f"--out={tmp_path}/p"]
    assert main(["predict", *flags, f"--images={folder}/images"]) == 2
    err = capsys.readouterr().err
    assert "'fusion.scnn' needs 80 omics columns beside the image" in err
    assert "is a folder" in err
    assert "omics_codeletion, omics_idh, omics_EGFR" in err
    data = store.open_store(folder / "data", "phantom")
    write_table(folder / "less.csv", data, without=("omics_idh", "omics_22q"))
    for verb, source in (("predict", "--images"), ("eval", "--table")):
        assert main([verb, *flags, f"{source}={folder}/less.csv"]) == 2
        err = capsys.readouterr().err
        assert "lacks 2 of the 80 omics columns" in err
        assert "omics_idh, omics_22q" in err
    assert not (tmp_path / "p").exists()


def test_a_patient_without_omics_has_an_error_or_is_imputed(folder, tmp_path, capsys):
    data = store.open_store(folder / "data", "phantom")
    write_table(folder / "empty.csv", data, empty_patient=data.patients[0])
    source = f"--images={folder}/empty.csv"
    for row in ("fusion.scnn", "fusion.ddmnet"):
        run = folder / row if (folder / row).exists() else train(folder, row)
        out = tmp_path / row
        flags = [f"--checkpoint={run}", source, "--no_pictures", f"--out={out}"]
        assert main(["predict", *flags]) == 0
        found = read_predictions(out / "predictions.csv")
        of_patient = np.array([p == data.patients[0] for p in found.patient])
        if row == "fusion.ddmnet":
            assert found.ok.all()
            continue
        np.testing.assert_array_equal(found.ok, ~of_patient)
        (message,) = {e for e in found.error if e}
        assert "this patient has no known entry" in message
    capsys.readouterr()


def test_serve_explain_and_export_refuse(folder, tmp_path, capsys):
    model = f"--checkpoint={folder}/fusion.scnn"
    assert main(["serve", model, "--port=0"]) == 2
    assert "needs 80 omics columns at test" in capsys.readouterr().err
    words = ["export", "--to=stablehlo", model, f"--out={tmp_path}/m.stablehlo"]
    assert main(words) == 2
    assert "takes images alone" in capsys.readouterr().err
    source = [f"--images={folder}/table.csv", f"--out={tmp_path}/e"]
    assert main(["explain", model, *source]) == 2
    assert "no class activation map, method 'fusion.scnn'" in capsys.readouterr().err
