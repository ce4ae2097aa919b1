#!/usr/bin/env bash
# Prints the real executable of the Python to build with: the one that PYTHON names, which may be a shim of pyenv.
set -euo pipefail

python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
    echo "py_reactor: there is no $python. Install Python 3.11 or newer, or set PYTHON=/path/to/python3." >&2
    exit 1
fi
exec "$python" "$(dirname "$0")/check_python.py"
