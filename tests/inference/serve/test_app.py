"""Web server: predictions of the model, and error responses."""

import base64
import concurrent.futures
import contextlib
import dataclasses
import http.client
import io
import json
import struct
import tempfile
import time
import zlib

import numpy as np
import pytest
from PIL import Image

import fof_jax
from fof_jax.cli.main import main
from fof_jax.inference import exported
from fof_jax.inference.serve import app, results, uploads
from tests.support import pages
from tests.support.pages import png, request

OPTIONS = app.Options(hosts=())


@pytest.fixture(scope="module")
def model(small_run):
    return fof_jax.load(small_run)


@pytest.fixture(scope="module")
def port(model):
    with pages.served(model, max_bytes=200_000, max_pixels=40_000) as port:
        yield port


def bomb(width, height):
    """A PNG of a few bytes whose header has that many pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(
        b"IDAT", zlib.compress(b"\0" * 1000)
    ) + chunk(b"IEND", b"")  # fmt: skip


def test_the_server_returns_the_predictions_of_the_model(port, model, small_pictures):
    """Tolerance 1e-5: JSON keeps all digits."""
    pixels = next(iter(small_pictures.values()))
    response, content = request(port, "/grade", png(pixels))
    assert response.status == 200
    found = json.loads(content)
    grades = model.predict([pixels])
    np.testing.assert_allclose(found["prob"], grades.prob[0], atol=1e-5)
    np.testing.assert_allclose(found["spread"], grades.spread[0], atol=1e-5)
    assert found["pred"] == found["target"] == grades.pred[0]
    assert found["overlay"].startswith("data:image/png;base64,")
    other = json.loads(request(port, "/grade?target=II", png(pixels))[1])
    assert other["target"] == "II"
    assert other["kept"] == pytest.approx(model.explain(pixels, "II").keep.mean())


def test_an_exported_file_gives_no_map(small_run, small_pictures, tmp_path):
    exported.write(tmp_path / "model.fof", fof_jax.load(small_run), card="# Card\n")
    model = fof_jax.load(tmp_path / "model.fof")
    pixels = next(iter(small_pictures.values()))
    with pages.served(model) as port:
        assert json.loads(request(port, "/about")[1])["explains"] is False
        response, content = request(port, "/grade", png(pixels))
        assert request(port, "/grade?target=V", png(pixels))[0].status == 422
    assert response.status == 200
    found = json.loads(content)
    assert set(found) == {
        "name", "row", "classes", "prob", "spread", "pred", "second", "uncertain",
        "min_margin", "abstain",
        "warning", "original",
    }  # fmt: skip
    np.testing.assert_allclose(found["prob"], model.predict([pixels]).prob[0])


def test_the_page_takes_what_predict_takes_unless_it_is_open(model):
    """Images of `small_run` have 64 x 64 pixels; an open page takes 64 times that."""
    assert app.describe(model, OPTIONS)["max_pixels"] == 89_478_485
    assert app.open_limits(model)["max_pixels"] == 64 * 64 * 64
    large = dataclasses.replace(model, sides=(1024, 2048))
    assert app.open_limits(large)["max_pixels"] == 25_000_000


@pytest.mark.parametrize(
    ("prob", "pred", "second", "uncertain"),
    [
        ([0.1, 0.3, 0.6], "IV", "III", False),
        ([0.45, 0.2, 0.35], "II", "IV", True),
        ([0.4, 0.4, 0.2], "II", "III", True),
        ([0.0, 0.61, 0.39], "III", "IV", False),
    ],
)
def test_a_small_margin_is_uncertain(
    model, small_pictures, monkeypatch, prob, pred, second, uncertain
):
    pixels = next(iter(small_pictures.values()))
    explained = dataclasses.replace(model.explain(pixels), prob=np.array(prob))
    monkeypatch.setattr(type(model), "explain", lambda *_: explained)
    found = results.grade_image(model, png(pixels), None, app.MAX_PIXELS)
    assert (found["pred"], found["second"]) == (pred, second)
    assert found["uncertain"] is uncertain


def test_the_original_is_what_the_model_reads(model, small_pictures):
    pixels = next(iter(small_pictures.values()))
    found = results.grade_image(model, png(pixels), None, app.MAX_PIXELS)
    data = base64.b64decode(found["original"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(image, model.preprocess(pixels).pixels)


def test_the_page_says_that_a_model_is_of_drawn_images(model):
    assert app.describe(model, OPTIONS)["synthetic"] is True
    other = dataclasses.replace(
        model, config=model.config.copy_and_resolve_references()
    )
    other.config.data.name = "clinic"
    assert app.describe(other, OPTIONS)["synthetic"] is False


def test_no_message_has_a_path_of_the_server(port, model, small_pictures, monkeypatch):
    for body in (b"no image", b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0\0\0"):
        response, content = request(port, "/grade", body)
        assert response.status == 422
        assert tempfile.gettempdir().encode() not in content
        assert b"/" not in json.loads(content)["error"].encode()
    monkeypatch.setattr(results, "decode", lambda *_: open("/etc/nothing/here"))
    response, content = request(port, "/grade", b"any")
    assert response.status == 500
    assert b"/etc" not in content


@pytest.mark.parametrize(
    "path", ["/", "/page.css", "/page.js", "/results.js", "/about"]
)
def test_content_security_policy(port, path):
    response, content = request(port, path)
    assert response.status == 200
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert b"://" not in content.replace(b"http://www.w3.org", b"")


@pytest.mark.parametrize(
    ("body", "path", "headers", "status", "words"),
    [
        (b"", "/grade", {}, 422, "no bytes"),
        (b"%PDF-1.7 nothing", "/grade", {}, 422, "image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "/grade", {}, 422, "image"),
        (bomb(50_000, 50_000), "/grade", {}, 422, "image"),
        (bomb(300, 300), "/grade", {}, 422, "40,000 pixels"),
        (b"\xff" * 200_001, "/grade", {}, 413, "200,000 bytes"),
        ("small", "/grade?target=../../etc/passwd", {}, 422, "does not exist"),
        ("torn", "/grade", {}, 422, "image"),
        ("small", "/grade", {"Sec_Fetch_Site": "cross-site"}, 403, "cross-site"),
        ("small", "/grade", {"Host": "evil.example"}, 400, "host"),
    ],
)
def test_invalid_requests_get_an_error_response(
    port, small_pictures, body, path, headers, status, words
):
    small = png(next(iter(small_pictures.values())))
    body = {"small": small, "torn": small[: len(small) // 2]}.get(body, body)
    response, content = request(port, path, body, **headers)
    assert response.status == status, content
    assert words in content.decode()
    assert request(port, "/about")[0].status == 200  # alive


def test_no_other_path_is_served(port):
    for path in (
        "/../pyproject.toml",
        "/page.html/../app.py",
        "/etc/passwd",
        "/app.py",
    ):
        assert request(port, path)[0].status == 404


def test_a_hundred_concurrent_requests_get_200_or_503(port, small_pictures):
    before = _temporary()
    body = png(next(iter(small_pictures.values())))
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        responses = list(pool.map(lambda _: request(port, "/grade", body), range(100)))
    codes = [response.status for response, _ in responses]
    assert set(codes) <= {200, 503}
    assert codes.count(200) >= app.MAX_QUEUED
    for response, content in responses:
        if response.status == 503:
            assert response.headers["Retry-After"]
            assert "again" in json.loads(content)["error"]
    assert request(port, "/grade", body)[0].status == 200
    assert _temporary() <= before


@contextlib.contextmanager
def unfinished(port, length):
    """A request that announces so many bytes and sends one."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest("POST", "/grade")
    connection.putheader("Content-Length", str(length))
    connection.endheaders(b"x")
    time.sleep(0.2)  # until the server has its place
    yield
    connection.close()


def test_bodies_are_bounded_together_before_they_are_read(port, small_pictures):
    """The server of `port` holds 2 x 200,000 bytes."""
    body = png(next(iter(small_pictures.values())))
    with unfinished(port, 200_000), unfinished(port, 200_000 - len(body)):
        assert request(port, "/grade", body)[0].status == 200
        response, content = request(port, "/grade", body + b"0")
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert "at most 400,000 together; try again" in json.loads(content)["error"]
    assert request(port, "/grade", body)[0].status == 200


def test_a_refused_client_gets_its_answer(model):
    """Though it sends 8 MB, more than socket buffers hold, before it reads."""
    large = bytes(8 * 10**6)
    with (
        pages.served(model, max_queued=0, max_bytes=8 * 10**6) as port,
        unfinished(port, 10),
    ):
        response, content = request(port, "/grade", large)
        assert response.status == 503
        assert "1 requests are held, at most 1; try" in json.loads(content)["error"]
        response, content = request(port, "/grade", large + b"0")
        assert response.status == 413
        assert "more than 8,000,000 bytes; send" in json.loads(content)["error"]


def test_a_stalled_upload_loses_its_place(model, small_pictures, monkeypatch):
    """The only one of this server, which another client then has."""
    monkeypatch.setattr(uploads, "PAUSE_TIMEOUT", 1)
    body = png(next(iter(small_pictures.values())))
    with pages.served(model, max_queued=0) as port, unfinished(port, 10):
        assert request(port, "/grade", body)[0].status == 503
        time.sleep(1.2)
        assert request(port, "/grade", body)[0].status == 200


def test_an_upload_that_takes_too_long_is_refused(model, monkeypatch):
    monkeypatch.setattr(uploads, "BODY_TIMEOUT", 1)
    with pages.served(model) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.putrequest("POST", "/grade")
        connection.putheader("Content-Length", "6")
        connection.endheaders()
        for _ in range(6):
            connection.send(b"x")
            time.sleep(0.3)
        response = connection.getresponse()
        assert response.status == 408
        assert "took more than 1 s" in json.loads(response.read())["error"]
        connection.close()


def _temporary():
    from pathlib import Path

    folder = Path(tempfile.gettempdir())
    return {p.name for p in folder.glob("tmp*") if (p / "image").exists()}


def test_a_port_in_use_and_a_missing_model_are_reported(small_run, port, capsys):
    words = ["serve", f"--checkpoint={small_run}", f"--port={port}"]
    assert main(words) == 2
    assert "Pass another --port" in capsys.readouterr().err
    assert main(["serve", "--checkpoint=nowhere", "--port=0"]) == 2
    assert "does not exist" in capsys.readouterr().err
