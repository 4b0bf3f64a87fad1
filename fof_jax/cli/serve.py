"""Serve a local web page that grades an image and shows the class activation map.

python launch.py serve --checkpoint=runs/phantom
python launch.py serve --checkpoint=model.fof --port=8080
python launch.py serve --checkpoint=runs/phantom --slides=slides
FOF_TOKEN=secret python launch.py serve --checkpoint=runs/phantom --host=0.0.0.0

`--checkpoint` is a run (ensemble of its folds), a fold, or a file of `export
--to=stablehlo`, which gives no map. Open http://127.0.0.1:8000. By default only this
machine can reach the page; with another `--host` it is open to that network, to all who
send the token of `--token` or FOF_TOKEN, or to all if there is none. `--slides` allows
the slides of one folder by path, from this machine only. Research use only; not for
diagnosis.
"""

import argparse
import contextlib
import importlib.util
import os
import socket
import sys
from pathlib import Path

from fof_jax.cli import predict

LOOPBACK = ("127.0.0.1", "localhost")
TOKEN = "FOF_TOKEN"  # environment variable


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, --host, --port."""
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="PATH")
    predict.add_abstain_flag(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="default 127.0.0.1: this machine only"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="default 8000; 0 picks a free one"
    )
    parser.add_argument(
        "--token",
        help=f"that requests have to send; default: the variable {TOKEN}, which other "
        "users of this machine do not see",
    )
    parser.add_argument(
        "--slides",
        type=Path,
        metavar="FOLDER",
        help="whose slides the page may grade; on this machine only",
    )
    parser.add_argument(
        "--mpp",
        type=predict.mpp,
        default=0.5,
        metavar="UM",
        help="micrometers per pixel of the training images, for slides; default 0.5",
    )


def run(flags: argparse.Namespace) -> int:
    """Serves until interrupted; 130."""
    missing = [n for n in ("starlette", "uvicorn") if not importlib.util.find_spec(n)]
    if missing:
        raise ValueError(
            f"serve requires {' and '.join(missing)}: pip install -e '.[serve]'."
        )
    if flags.slides is not None:
        _check_slides(flags.slides, flags.host)
    # Bound before the model is loaded, so that a port in use is reported at once.
    with contextlib.closing(_bind(flags.host, flags.port)) as bound:
        return _serve(flags, bound)


def _serve(flags: argparse.Namespace, bound: socket.socket) -> int:
    import numpy as np
    import uvicorn

    from fof_jax.evaluation import abstention
    from fof_jax.inference import load
    from fof_jax.inference.model import has_map, reads_bags
    from fof_jax.inference.serve import app

    model = load.load(flags.checkpoint)
    if model.omic_names:
        raise ValueError(
            f"serve: method {model.config.method!r} needs {len(model.omic_names)} "
            "omics columns at test, and the page takes images alone. Use predict with "
            "--images=TABLE.csv, or a model whose test input is the image."
        )
    if reads_bags(model):
        raise ValueError(
            f"serve: method {model.config.method!r} reads patch features, and the page "
            "takes images. Use predict with HDF5 files."
        )
    if flags.slides is not None and model.reads_graphs:
        raise ValueError(
            f"serve: method {model.config.method!r} reads cell graphs of regions, and "
            "takes no slides. Leave --slides out."
        )
    rules = abstention.read(flags.abstain) if flags.abstain else model.abstention
    rule = rules.get("region")
    if rule is not None:
        rule.require(model.classes)
    blank = np.zeros((model.image_size, model.image_size, 3), np.uint8)
    # Compiles before the first request.
    model.explain(blank) if has_map(model) else model.predict([blank])
    local = flags.host in LOOPBACK
    token = flags.token or os.environ.get(TOKEN, "")
    if not (local or token):
        print(
            f"warning: everybody who can reach {flags.host} can use this page",
            file=sys.stderr,
        )
    limits = {} if local else app.open_limits(model)
    options = app.Options(
        hosts=LOOPBACK if local else ("*",),
        rule=rule,
        token=token,
        slides=flags.slides,
        mpp=flags.mpp,
        **limits,
    )
    application = app.application(model, options)
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
    host = f"[{flags.host}]" if ":" in flags.host else flags.host
    print(f"http://{host}:{bound.getsockname()[1]}    Ctrl-C to stop", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[bound])
    return 130


def _check_slides(folder: Path, host: str) -> None:
    if not folder.is_dir():
        raise ValueError(f"--slides={folder} is no folder. Pass one with slides.")
    if host not in LOOPBACK:
        raise ValueError(
            f"--slides is for this machine only, and --host={host} opens the page to "
            "others. Leave one of the two out."
        )


def _bind(host: str, port: int) -> socket.socket:
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
            "--port; 0 picks a free one."
        ) from None
    return bound
