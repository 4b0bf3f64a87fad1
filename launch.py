"""python launch.py [VERB] --config=configs/NAME.py …   The verb defaults to train."""

import sys

from fof_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
