#!/usr/bin/env bash
# Prints a line (see describe_python.py) for each Python 3 of this machine: the `python3' and `python3.N' on the PATH, and
# those of pyenv. That of PYTHON, if it is set, comes first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

pyenv=${PYENV_ROOT:-$HOME/.pyenv}

candidates() {
    command -v "${PYTHON:-python3}" || true
    IFS=: read -ra directories <<<"$PATH"
    for directory in "${directories[@]}"; do
        # A shim of pyenv leads to one of its versions, or nowhere.
        [ "$directory" = "$pyenv/shims" ] || printf '%s\n' "$directory"/python3*
    done
    printf '%s\n' "$pyenv"/versions/*/bin/python3
}

candidates | grep -E '/python3(\.[0-9]+t?)?$' | while read -r python; do
    if [ -x "$python" ]; then
        "$python" -B scripts/describe_python.py </dev/null || echo "py_reactor: $python does not run" >&2
    fi
done | awk -F '\t' '!seen[$2]++'
