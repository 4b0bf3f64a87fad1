"""python launch.py [COMMAND] --config=configs/NAME.py …   Default command: train."""

import sys

from fof_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
