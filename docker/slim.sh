#!/bin/sh
# Removes from a virtual environment what only building and testing need; the environment's own pip goes last.
set -eu
python_packages=$(echo "$1"/lib/python3.*/site-packages)
rm -rf "$python_packages"/pandas/tests "$python_packages"/numba/tests "$python_packages"/numba/cuda/tests
"$1"/bin/python -m pip uninstall --yes setuptools > /dev/null 2>&1 || true
"$1"/bin/python -m pip uninstall --yes pip
