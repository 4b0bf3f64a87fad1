"""A web page on this machine: drop an image, see its grade and where the model looked.

python launch.py serve --checkpoint=runs/phantom
python launch.py serve --checkpoint=model.fof --port=8080

A run (its folds are averaged), one fold of it, or a file of `export --to=stablehlo`,
which gives grades without the map. Then open http://127.0.0.1:8000. Only this machine
can reach the page; with another `--host` everybody can who reaches that address, and
there is no password. Research use only; not for diagnosis.
"""

import argparse
import contextlib
import importlib.util
import socket
import sys
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--checkpoint, --host, --port."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="PATH")
    parser.add_argument(
        "--host", default="127.0.0.1", help="default 127.0.0.1: this machine alone"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="default 8000; 0 takes a free one"
    )


def run(flags: argparse.Namespace) -> int:
    """Serves until it is interrupted; 130."""
    missing = [n for n in ("starlette", "uvicorn") if not importlib.util.find_spec(n)]
    if missing:
        raise ValueError(
            f"serve needs {' and '.join(missing)}: pip install -e '.[serve]'."
        )
    with contextlib.closing(_bind(flags.host, flags.port)) as bound:
        return _serve(flags, bound)


def _serve(flags: argparse.Namespace, bound: socket.socket) -> int:
    import numpy as np
    import uvicorn

    from fof_jax.inference import load
    from fof_jax.inference.serve import app

    model = load.load(flags.checkpoint)
    blank = np.zeros((model.image_size, model.image_size, 3), np.uint8)
    # Compiles before anybody waits.
    model.explain(blank) if model.explains else model.predict([blank])
    alone = flags.host in LOOPBACK
    if not alone:
        print(
            f"warning: everybody who reaches {flags.host} can use this page",
            file=sys.stderr,
        )
    made = app.application(model, hosts=LOOPBACK if alone else ("*",))
    server = uvicorn.Server(uvicorn.Config(made, log_level="warning"))
    shown = f"[{flags.host}]" if ":" in flags.host else flags.host
    print(f"http://{shown}:{bound.getsockname()[1]}    Ctrl-C ends it", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[bound])
    return 130


def _bind(host: str, port: int) -> socket.socket:
    """A socket before the model is loaded: a port in use is said at once."""
    bound = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        if bound is not None:
            bound.close()
        raise ValueError(
            f"--host={host} --port={port} cannot be used ({error}). Pass another "
            "--port; 0 takes a free one."
        ) from None
    return bound
