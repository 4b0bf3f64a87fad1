"""Where compiled programs are kept: the rules, the limit, and what a kill leaves.

The effect is tested by a second process, which reads what the first has compiled.
"""

import os
import subprocess
import sys
import time
import zlib

import jax
import pytest
from PIL import Image

from fof_jax.cli import compiled
from fof_jax.cli.main import COMMANDS, COMPILING, main
from fof_jax.data.errors import DataWarning
from tests.support.small_runs import ROOT


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """No variable is set, and those that are set in the test are undone."""
    for name in (compiled.FOLDER, compiled.ENABLED, compiled._SHORTEST):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = (
        "jax_compilation_cache_dir",
        "jax_enable_compilation_cache",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield monkeypatch
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_default_is_in_the_users_cache_folder(unset, tmp_path):
    folder = compiled.use(None)
    assert folder.parent == tmp_path / "cache/fof_jax/compiled"
    assert folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    assert os.environ[compiled.FOLDER] == str(folder)  # for child processes


def test_a_relative_cache_home_is_ignored(unset, tmp_path):
    unset.setenv("XDG_CACHE_HOME", "here")
    unset.setenv("HOME", str(tmp_path))
    assert compiled.default_folder().is_relative_to(tmp_path / ".cache")


def test_processes_with_other_cores_share_no_programs(unset):
    folders = []
    for cores in ({0, 1, 2}, {5}):
        unset.setattr(os, "sched_getaffinity", lambda process, cores=cores: cores)
        folders.append(compiled.default_folder())
    assert folders[0] != folders[1]
    assert [folder.name[-2:] for folder in folders] == ["-3", "-1"]


def test_jax_s_own_variables_win_over_the_default(unset, tmp_path):
    unset.setenv(compiled.FOLDER, str(tmp_path / "mine"))
    assert compiled.use(None) == tmp_path / "mine"
    assert not (tmp_path / "mine").exists()  # is JAX's affair
    unset.setenv(compiled.ENABLED, "false")
    assert compiled.use(None) is None


def test_the_flag_wins_over_all(unset, tmp_path):
    unset.setenv(compiled.FOLDER, str(tmp_path / "mine"))
    assert compiled.use(str(tmp_path / "flag")) == tmp_path / "flag"
    assert compiled.use(compiled.OFF) is None
    assert not jax.config.jax_enable_compilation_cache
    assert os.environ[compiled.ENABLED] == "false"


def test_a_folder_that_cannot_be_made(unset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be used.*--compiled=off"):
        compiled.use(str(tmp_path / "file/x"))
    unset.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(DataWarning, match="none are kept"):
        assert compiled.use(None) is None


def entry(folder, name, size, age):
    """An entry of incompressible bytes, last used `age` seconds ago."""
    path = folder / f"{name}-cache"
    path.write_bytes(zlib.compress(os.urandom(size)))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_the_least_recently_used_are_removed_above_the_limit(tmp_path):
    paths = [entry(tmp_path, str(age), 1000, age) for age in (400, 300, 200, 100)]
    (tmp_path / ".checked").touch()  # a check reads them, which counts as a use
    compiled.sweep(tmp_path, limit=10_000)
    assert all(path.exists() for path in paths)
    os.utime(paths[0], (time.time(), time.time() - 400))  # read now, written long ago
    compiled.sweep(tmp_path, limit=3500)
    # Two of about 1,011 bytes are below three quarters of the limit, three are not.
    assert [path.exists() for path in paths] == [True, False, False, True]


def test_what_a_killed_process_left_is_removed(tmp_path):
    whole, cut, empty, fresh = (
        entry(tmp_path, name, 1000, age)
        for name, age in (("a", 300), ("b", 300), ("c", 300), ("d", 0))
    )
    for path, keep in ((cut, 500), (empty, 0), (fresh, 500)):
        status = path.stat()
        path.write_bytes(path.read_bytes()[:keep])
        os.utime(path, (status.st_atime, status.st_mtime))
    compiled.sweep(tmp_path)
    # Another process may still write the fresh one.
    assert [p.exists() for p in (whole, fresh)] == [True, True]
    assert [p.exists() for p in (cut, empty)] == [False, False]
    for path in (fresh, tmp_path / ".checked"):  # a minute later
        os.utime(path, (time.time() - 61,) * 2)
    compiled.sweep(tmp_path)
    assert not fresh.exists()


CHILD = """
import sys
from fof_jax.cli import compiled
compiled.use(sys.argv[1])
import jax
from jax._src import monitoring
events = []
monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: x * 3 + 1)(2.0)
print(sum(name.endswith("/cache_hits") for name in events))
"""


def test_later_processes_compile_nothing(tmp_path):
    """Two that begin together, one after them, and one that meets half an entry.

    The last is what a reader finds while another process writes.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for name in (compiled.FOLDER, compiled._SHORTEST):
        environment.pop(name, None)
    command = [sys.executable, "-c", CHILD, str(tmp_path / "kept")]

    def start():
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True
        )

    together = [start(), start()]
    assert all(one.communicate()[0].strip().isdigit() for one in together)
    assert [one.returncode for one in together] == [0, 0]
    after = start()
    assert int(after.communicate()[0]) >= 1
    for path in (tmp_path / "kept").glob("*-cache"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = start()
    assert int(reader.communicate()[0]) == 0
    assert reader.returncode == 0


def test_commands_have_the_flag(capsys):
    assert set(COMMANDS) >= COMPILING
    assert main(["help", "predict"]) == 0
    assert "--compiled FOLDER|off" in capsys.readouterr().out
    assert main(["help", "eval"]) == 0
    assert "--compiled" not in capsys.readouterr().out


# Each takes about as long to import as one image to predict, or more.
UNUSED = (
    *("IPython", "absl.testing", "fof_jax.data.loader", "fof_jax.parity"),
    *("fof_jax.report", "fof_jax.training.train", "grain", "h5py", "jinja2"),
    *("matplotlib.pyplot", "networkx", "openslide", "pandas", "scipy", "skimage"),
    *("sklearn", "starlette", "tensorboardX", "tensorflow", "tensorflow_datasets"),
    *("tifffile", "torch", "transformers"),
)
PREDICT = f"""
import sys
from fof_jax.cli.main import main
code = main(sys.argv[1:])
print([name for name in {UNUSED} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def test_a_prediction_imports_what_it_uses(small_run, small_pictures, tmp_path):
    """With its plot, by a process of its own."""
    image = tmp_path / "image.png"
    Image.fromarray(next(iter(small_pictures.values()))).save(image)
    words = ["predict", f"--checkpoint={small_run / 'fold_0'}", f"--images={image}"]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, *words, f"--out={tmp_path / 'out'}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out/focus").glob("*.png"))
    assert done.stderr.splitlines()[-1] == "[]"
