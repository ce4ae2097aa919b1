#!/usr/bin/env bash
# Runs Common Test with every other Python of this machine that can be used: python3 on the PATH, and those of pyenv. The one
# that PYTHON names (default: python3) is left to `make test'. Each runs in a copy of this checkout, so that the library here
# stays linked to the Python it has.
#
#   SUITES   (default: all but docs, whose samples do not depend on the version)
#
# Fails if nothing from 3.12 on is among them, without which interpreters with a GIL of their own go untested.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suites=${SUITES:-$(cd test && printf '%s\n' *_SUITE.erl | sed 's/_SUITE.erl//' | grep -vx docs)}
ours=$(bash scripts/find_python.sh)
number() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'; }

declare -A chosen
modern=
for candidate in "$ours" "$(command -v python3)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
    [ -x "$candidate" ] || continue
    if ! python=$(PYTHON=$candidate bash scripts/find_python.sh 2>&1); then
        echo "matrix: skipped: ${python%%$'\n'*}"
        continue
    fi
    version=$(number "$python")
    [ -z "${chosen[$version]:-}" ] || continue
    chosen[$version]=$python
    case $version in 3.11.*) ;; *) modern=yes ;; esac
done
if [ -z "$modern" ]; then
    echo "matrix: there is no Python 3.12 or newer that can be used. Install one with a shared library" \
        "(pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.13; Debian: python3-dev), or name it with PYTHON." >&2
    exit 1
fi

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
paths=$(printf 'test/%s_SUITE,' $suites)
for version in $(printf '%s\n' "${!chosen[@]}" | sort -V); do
    python=${chosen[$version]}
    if [ "$python" = "$ours" ]; then
        echo "matrix: Python $version ($python): that is what \`make test' uses"
        continue
    fi
    echo "matrix: Python $version ($python)"
    mkdir "$copy/$version"
    git ls-files --cached --others --exclude-standard -z | tar --null -T - --ignore-failed-read -cf - 2>/dev/null |
        tar -C "$copy/$version" -xf -
    (cd "$copy/$version" && PYTHON=$python CARGO_TARGET_DIR=$OLDPWD/target/python-$version rebar3 ct --suite "${paths%,}")
done
