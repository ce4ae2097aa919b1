#!/usr/bin/env bash
# Makes .venv, with what the Python tests need, and prints its Python. Does nothing when it is there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=$(bash scripts/find_python.sh)
requirements=scripts/test-requirements.txt
stamp=.venv/made-from
wanted="$("$python" -VV) $python $(cksum "$requirements")"

if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "py_reactor: making .venv with $python and installing pytest, hypothesis and mypy" >&2
    rm -rf .venv
    "$python" -m venv .venv >&2
    .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off -r "$requirements" >&2
    echo "$wanted" >"$stamp"
fi
echo .venv/bin/python
