"""The API reference as HTML, from the docstrings of the package.

python tools/api_reference.py --out=reference
pip install -e '.[docs]' first. Every module of fof_jax is a page; links of names are
pdoc's.
"""

import argparse
import os
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Writes index.html and a page for each module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    flags = parser.parse_args(argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # modules are imported, not run
    import pdoc
    import pdoc.render

    pdoc.render.configure(docformat="google", show_source=False)
    # Programs, which run on import or import the authors' code.
    programs = ("!fof_jax.__main__", "!fof_jax.parity.live_child")
    pdoc.pdoc("fof_jax", *programs, output_directory=flags.out)
    print(f"{flags.out / 'index.html'}: {len([*flags.out.rglob('*.html')])} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
