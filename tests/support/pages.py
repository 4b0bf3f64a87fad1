"""Runs the web server in a thread of the test process."""

import contextlib
import threading
import time

import uvicorn

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
