"""Runs the web server in a thread of the test process, and asks it."""

import contextlib
import http.client
import io
import threading
import time

import uvicorn
from PIL import Image

from fof_jax.inference.serve import app


@contextlib.contextmanager
def served(model, **options):
    """Serves a model; yields the port."""
    hosts = ("127.0.0.1", "localhost")
    application = app.application(model, app.Options(hosts=hosts, **options))
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def request(port, path, body=None, **headers):
    """The response and its content; header_name for header-name."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    method = "GET" if body is None else "POST"
    connection.request(method, path, body, {k.replace("_", "-"): v
                                            for k, v in headers.items()})  # fmt: skip
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def png(pixels):
    """Pixels as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
