"""What every test shares: two fake CPU devices, run-time shape checks, strictness."""

import os
import shutil
from pathlib import Path

# Before jax is imported: devices cannot be added later. Tests compile much and run
# little, so XLA may compile fast rather than well (a quarter of the time).
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The same small programs are compiled again and again, by several runs in one test.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from absl import flags  # noqa: E402

jaxtyping.install_import_hook("fof_jax", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def _absl_flags_parsed() -> None:
    # Grain reads absl flags; outside app.run nobody has parsed them.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """Where the phantom of `small_run` is kept."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def small_run(small_data, tmp_path_factory):
    """A finished run of two folds on 18 regions; read only."""
    from fof_jax.cli.main import main

    workdir = tmp_path_factory.mktemp("run")
    flags = [
        "--config=phantom",
        f"--config.data.dir={small_data}",
        "--config.data.regions=18",
        "--config.folds=2",
        "--config.epochs=1",
        "--config.batch_size=4",
        "--config.encoder=mu/16",
        f"--workdir={workdir}",
    ]
    assert main(flags) == 0
    return workdir


@pytest.fixture(scope="session")
def small_pictures(small_run, small_data):
    """The regions of `small_run` by name, uint8 [64, 64, 3]."""
    from fof_jax.data import store

    opened = store.open_store(small_data, "phantom")
    return {name: opened.native(i) for i, name in enumerate(opened.images)}


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
