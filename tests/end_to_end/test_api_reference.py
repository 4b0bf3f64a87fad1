"""The API reference has a page for each module, and its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source import modules

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_pages_and_links(tmp_path):
    pytest.importorskip("pdoc", reason="the extra `docs` is missing")
    tool = [sys.executable, ROOT / "tools/api_reference.py", f"--out={tmp_path}"]
    subprocess.run(tool, check=True, cwd=ROOT, capture_output=True)
    for name in modules(ROOT / "fof_jax"):
        if name not in ("__init__", "__main__", "parity.live_child"):
            assert (tmp_path / f"fof_jax/{name.replace('.', '/')}.html").exists(), name
    links = 0
    for page in tmp_path.rglob("*.html"):
        # The search builds links in a script, of names in search.js.
        text = re.sub("<script.*?</script>", "", page.read_text(), flags=re.S)
        for target in re.findall(r'href="([^"#]+)', text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
                links += 1
    assert links > 1000
