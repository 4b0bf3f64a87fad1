"""Several files in a request, tables, slides of a folder, the token, the health check.

References: the standard library's writer of forms, `predict` on the same slide, and
`read_predictions` for tables.
"""

import base64
import email.encoders
import email.mime.application
import email.mime.multipart
import email.policy
import io
import json

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.cli.serve import TOKEN
from fof_jax.evaluation.predictions import read_predictions
from fof_jax.inference import slides
from fof_jax.inference.serve import access, uploads
from tests.support import pages
from tests.support.pages import png, request
from tests.support.slide_files import on_glass, write_slide


@pytest.fixture(scope="module")
def model(small_run):
    return fof_jax.load(small_run / "fold_0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_pictures):
    """A folder with a slide below it, one without a scale, a region, and one beside."""
    made = tmp_path_factory.mktemp("hospital")
    (made / "slides/case").mkdir(parents=True)
    regions = list(small_pictures.values())[:3]
    write_slide(made / "slides/case/a b.tif", on_glass(regions))
    write_slide(made / "slides/bare.tif", on_glass(regions), mpp=None)
    write_slide(made / "outside.tif", on_glass(regions))
    Image.fromarray(regions[0]).save(made / "slides/region.png")
    return made


@pytest.fixture(scope="module")
def port(model, folder):
    with pages.served(
        model, slides=folder / "slides", max_bytes=200_000, max_pixels=40_000
    ) as port:
        yield port


def form_of(files):
    """Content type and body of a form, by the standard library."""
    form = email.mime.multipart.MIMEMultipart("form-data")
    for name, content in files:
        part = email.mime.application.MIMEApplication(
            content, "octet-stream", email.encoders.encode_noop
        )
        part.add_header("Content-Disposition", "form-data", name="file", filename=name)
        form.attach(part)
    text = form.as_bytes(policy=email.policy.HTTP.clone(cte_type="8bit"))
    _, _, body = text.partition(b"\r\n\r\n")
    return form["Content-Type"].replace("\n", ""), body


def by_hand(files, boundary="----x"):
    parts = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="{name}"'
        "\r\nContent-Type: image/png\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    )
    return f"multipart/form-data; boundary={boundary}", parts + (
        f"--{boundary}--\r\n".encode()
    )


def test_forms_are_read_byte_by_byte():
    rng = np.random.default_rng(0)
    contents = [rng.bytes(5000), b"", b"\r\n", b"\n--", b"--\r\n\r\n--", b"\r\n----"]
    files = [(f"{i} \u00e9.png", content) for i, content in enumerate(contents)]
    kind, body = by_hand(files)
    found = uploads.parse_form(kind, b"preamble\r\n" + body + b"epilogue")
    assert [one.body for one in found] == contents
    text = [("a.txt", b"one\r\ntwo"), ("b.txt", b"three")]
    assert [(u.name, u.body) for u in uploads.parse_form(*form_of(text))] == text
    for broken in (body[:-10], b"", b"------x\r\nno end"):
        with pytest.raises(uploads.RequestError, match="form"):
            uploads.parse_form(kind, broken)
    with pytest.raises(uploads.RequestError, match="boundary"):
        uploads.parse_form("multipart/form-data", body)


def test_several_files_in_one_request(port, model, small_pictures, tmp_path):
    """Tolerance 1e-9: tables have nine digits."""
    pictures = list(small_pictures.values())[:2]
    files = [("a.png", png(pictures[0])), ("../b.png", png(pictures[1])), ("c", b"no")]
    kind, body = by_hand(files)
    response, content = request(port, "/grade", body, Content_Type=kind)
    assert response.status == 200
    found = json.loads(content)["results"]
    assert [one["name"] for one in found] == ["a.png", "../b.png", "c"]
    expected = model.predict(pictures)
    for one, prob in zip(found, expected.prob, strict=False):
        np.testing.assert_allclose(one["prob"], prob, atol=1e-5)
    assert "image" in found[2]["error"]
    response, content = request(port, "/grade?format=csv", body, Content_Type=kind)
    assert response.headers["Content-Type"].startswith("text/csv")
    (tmp_path / "p.csv").write_bytes(content)
    table = read_predictions(tmp_path / "p.csv")
    assert table.image == ("a.png", "../b.png", "c")
    assert table.classes == model.classes
    assert list(table.ok) == [True, True, False]
    np.testing.assert_allclose(
        table.prob[:2], [f["prob"] for f in found[:2]], atol=1e-9
    )


def test_a_table_of_one_image_has_the_columns_of_predict(
    port, small_run, small_pictures, tmp_path
):
    image = tmp_path / "region.png"
    Image.fromarray(next(iter(small_pictures.values()))).save(image)
    words = [f"--checkpoint={small_run / 'fold_0'}", f"--images={image}"]
    assert main(["predict", *words, "--no_pictures", f"--out={tmp_path / 'o'}"]) == 0
    path = "/grade?format=csv&name=region.png"
    _, content = request(port, path, image.read_bytes())
    expected = (tmp_path / "o/predictions.csv").read_text().splitlines()
    found = content.decode().splitlines()
    assert found[0] == expected[0]
    assert found[1].split(",")[:6] == expected[1].split(",")[:6]
    columns = json.loads(request(port, "/about")[1])["columns"]
    assert ",".join(columns) == expected[0]


def test_forms_with_too_many_files_or_none(port):
    for files in ([], [("a", b"x")] * (uploads.MAX_FILES + 1)):
        kind, body = by_hand(files)
        response, content = request(port, "/grade", body, Content_Type=kind)
        assert response.status == 422
        assert "1 to 100" in json.loads(content)["error"]


def test_slides_of_the_folder_are_graded_as_predict_does(port, model, folder):
    listed = json.loads(request(port, "/slides")[1])["slides"]
    assert listed == ["bare.tif", "case/a b.tif"]
    body = json.dumps({"path": "case/a b.tif"}).encode()
    response, content = request(port, "/slide", body)
    assert response.status == 200, content
    found = json.loads(content)
    expected = slides.predict_slide(model, folder / "slides/case/a b.tif", maps=True)
    np.testing.assert_allclose(found["prob"], expected.grades.prob[0], atol=1e-6)
    assert found["tiles"] == len(expected.tiles) == 3
    assert found["tiles_csv"].splitlines()[0].startswith("x,y,width,mpp,pred,p_")
    assert len(json.loads(found["geojson"])["features"]) >= 3
    with Image.open(
        io.BytesIO(base64.b64decode(found["slide"].partition(",")[2]))
    ) as picture:
        assert picture.format == "PNG"


def test_a_slide_without_a_scale_needs_one(port):
    body = json.dumps({"path": "bare.tif"}).encode()
    response, content = request(port, "/slide", body)
    assert response.status == 422
    error = json.loads(content)["error"]
    assert "resolution" in error
    assert "/tmp" not in error
    assert "--" not in error
    body = json.dumps({"path": "bare.tif", "mpp": 0.25}).encode()
    assert request(port, "/slide", body)[0].status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"path": "../outside.tif"}, 404),
        ({"path": "case/../../outside.tif"}, 404),
        ({"path": "/etc/passwd"}, 404),
        ({"path": "region.png"}, 404),
        ({"path": ["case/a b.tif"]}, 404),
        ({"path": "bare.tif", "mpp": 99}, 422),
        ({"path": "bare.tif", "mpp": "wide"}, 422),
        ({}, 404),
        ([], 422),
    ],
)
def test_only_listed_slides_and_valid_scales(port, folder, body, status):
    named = json.dumps(body).encode()
    assert request(port, "/slide", named)[0].status == status
    absolute = json.dumps({"path": str(folder / "outside.tif")}).encode()
    assert request(port, "/slide", absolute)[0].status == 404


def test_links_to_slides_are_listed_by_their_own_name(folder, tmp_path):
    (tmp_path / "link.tif").symlink_to(folder / "outside.tif")
    assert list(access.slides_in(tmp_path, 64)) == ["link.tif"]


def test_a_token_guards_all_but_the_page_and_its_health(model, small_pictures):
    body = png(next(iter(small_pictures.values())))
    right = {"Authorization": "Bearer s3cret"}
    with pages.served(model, token="s3cret") as port:
        for path in ("/", "/page.js", "/results.js", "/page.css", "/healthz"):
            assert request(port, path)[0].status == 200
        for path in ("/about", "/slides", "/nothing"):
            response, content = request(port, path)
            assert response.status == 401
            assert b"s3cret" not in content
        for sent in ("", "Bearer", "Bearer s3cre", "Bearer s3cret2", "s3cret"):
            headers = {"Authorization": sent} if sent else {}
            assert request(port, "/grade", body, **headers)[0].status == 401
        assert request(port, "/grade", body, **right)[0].status == 200
        assert request(port, "/about", **right)[0].status == 200
        assert json.loads(request(port, "/healthz")[1]) == {"status": "ok"}


def test_without_a_folder_there_are_no_slides(model):
    with pages.served(model) as port:
        assert json.loads(request(port, "/slides")[1]) == {"slides": []}
        body = json.dumps({"path": "bare.tif"}).encode()
        assert request(port, "/slide", body)[0].status == 404
        assert json.loads(request(port, "/about")[1])["slides"] is False


def test_flags_that_do_not_fit_are_refused(small_run, folder, tmp_path, capsys):
    words = ["serve", f"--checkpoint={small_run}", "--port=0"]
    assert main([*words, f"--slides={tmp_path / 'none'}"]) == 2
    assert "is no folder" in capsys.readouterr().err
    assert main([*words, f"--slides={folder}", "--host=0.0.0.0"]) == 2
    assert "for this machine only" in capsys.readouterr().err


def test_the_command_takes_the_token_of_the_environment(
    small_run, folder, monkeypatch, capsys
):
    import uvicorn

    from fof_jax.inference.serve import app

    made = []
    application = app.application
    monkeypatch.setattr(
        app, "application", lambda *words: made.append(words[1]) or application(*words)
    )
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    monkeypatch.setenv(TOKEN, "of the environment")
    words = ["serve", f"--checkpoint={small_run / 'fold_0'}", "--port=0"]
    assert main([*words, f"--slides={folder}", "--mpp=0.25"]) == 130
    assert main([*words, "--token=of the flag", "--host=0.0.0.0"]) == 130
    assert [one.token for one in made] == ["of the environment", "of the flag"]
    assert (made[0].slides, made[0].mpp) == (folder, 0.25)
    assert "everybody" not in capsys.readouterr().err
