#!/usr/bin/env bash
# Runs the default tests on a newer Python than 3.11, with the newest packages that the
# bounds of pyproject.toml allow, in an environment that is removed afterwards.
#
#     tools/test_newer_python.sh [PYTHON]
#
# PYTHON: an interpreter; without it the newest of python3.14, 3.13 and 3.12 that runs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-}
if [ -z "$python" ]; then
  for version in 3.14 3.13 3.12; do
    # pyenv has commands that do not run.
    if "python$version" -c "" 2> /dev/null; then python=python$version; break; fi
  done
fi
if [ -z "$python" ]; then
  echo "no Python 3.12 or newer on the PATH; pass an interpreter" >&2
  exit 2
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
env -u PIP_CONSTRAINT "$folder/venv/bin/pip" install -q -e '.[test]'
"$folder/venv/bin/python" - << 'VERSIONS'
import importlib.metadata as metadata, platform
names = ("jax", "jaxlib", "flax", "numpy", "orbax-checkpoint", "grain")
print("Python", platform.python_version(), *(f"{n} {metadata.version(n)}" for n in names))
VERSIONS
"$folder/venv/bin/python" -m pytest
