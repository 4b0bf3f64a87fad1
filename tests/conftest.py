"""What every test shares: two fake CPU devices, run-time shape checks, strictness."""

import contextlib
import fcntl
import gc
import io
import os
import shutil
from pathlib import Path

from tests.support import xla_flags

# Before jax is imported: devices cannot be added later. Tests compile much and run
# little, so XLA may compile fast rather than well (a quarter of the time).
os.environ.setdefault(
    "XLA_FLAGS", "--xla_force_host_platform_device_count=2 " + xla_flags.COMPILE_FAST
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The same small programs are compiled again and again, by several runs in one test and
# by both processes; most take 10 to 50 ms, of which there are thousands. A folder for
# each number of cores, on which the sums of a program depend.
CORES = len(os.sched_getaffinity(0))
CACHE = Path(__file__).parents[1] / ".pytest_cache" / f"xla-{CORES}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

from tests.support import lazy_checks, param_shapes  # noqa: E402

param_shapes.install()
jaxtyping.install_import_hook("fof_jax", f"{lazy_checks.__name__}.checked")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish() -> None:
    """Looks for garbage less often: an eighth of the time, as traces are many objects.

    What the imports made stays anyway.
    """
    jax.devices()  # two, before a command in this process asks for another number
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _absl_flags_parsed() -> None:
    # Grain reads absl flags; outside app.run nobody has parsed them.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


@pytest.fixture(autouse=True, scope="session")
def _steps_of_a_config_made_once():
    """Runs of one config in one process share method and steps, as its folds do.

    Tracing a step and loading its program is most of a small run that was compiled
    before. Where the data are and which folds are trained is no part of the steps.
    """
    from fof_jax.training import build

    made, original = {}, build.build

    def shared(config, info):
        own = config.copy_and_resolve_references().unlock()
        own.data.dir, own.fold, own.teacher_dir = "", None, ""
        key = own.to_json_best_effort(), repr(info)
        if key not in made:
            setup = original(config, info)
            if len(made) == 4:  # programs are large
                made.pop(next(iter(made)))
            made[key] = setup
        return made[key]

    build.build = shared
    yield
    build.build = original


def _trained(tmp_path_factory, name):
    """A folder with data/, run/ and told.txt, made by the first process that asks."""
    from fof_jax.cli.main import main
    from tests.support import small_runs

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which the session's processes share
    folder = base / name
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the others wait
        told = folder / "told.txt"
        if not told.exists():
            words = [f"--config.data.dir={folder}/data", f"--workdir={folder}/run"]
            with contextlib.redirect_stdout(io.StringIO()) as output:
                assert main([*small_runs.WORDS[name], *words]) == 0
            told.write_text(output.getvalue())
    return folder


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """Data, run and output of `small_run`."""
    return _trained(tmp_path_factory, "small")


@pytest.fixture(scope="session")
def small_data(small_folder):
    """Where the phantom of `small_run` is kept; read only."""
    return small_folder / "data"


@pytest.fixture(scope="session")
def small_run(small_folder):
    """A finished run of two folds and one epoch on 18 regions; read only."""
    return small_folder / "run"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A copy of the data of `finished`."""
    folder = _trained(tmp_path_factory, "resumable")
    return shutil.copytree(folder / "data", tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of a finished run of two folds and two epochs, with its checkpoints."""
    folder = _trained(tmp_path_factory, "resumable")
    return shutil.copytree(folder / "run", tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="session")
def small_pictures(small_run, small_data):
    """The regions of `small_run` by name, uint8 [64, 64, 3]."""
    from fof_jax.data import store

    opened = store.open_store(small_data, "phantom")
    return {name: opened.native(i) for i, name in enumerate(opened.images)}


@pytest.fixture
def without_plots(monkeypatch):
    """Skips layout and rendering, most of the time, in tests of text."""
    from fof_jax.report import style

    monkeypatch.setattr(style, "_lay_out", lambda _: None)
    monkeypatch.setattr(style, "_render", lambda *_: b'<svg viewBox="0 0 1 1"></svg>')


# So that Chromium asks nobody for anything.
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def browser():
    """Chromium; skips, with the reason, where there is none."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the extra `browser` is not installed"
    )
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield opened
        opened.close()
