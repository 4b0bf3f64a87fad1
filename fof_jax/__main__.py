"""`python -m fof_jax`, the same commands as the console script `fof`."""

import sys

from fof_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], program="python -m fof_jax"))
