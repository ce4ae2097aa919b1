#!/usr/bin/env bash
# Runs Common Test with each Python of this machine that the reactor can be built with, but for the one that `make test'
# uses. Ends at the first that fails.
#
#   test_matrix.sh core    the core of the suites, with the first of each other minor version, on one of the backends
#   test_matrix.sh full    all suites with the first of each minor version, the conformance suites with the others
#
# Each runs in a copy of this checkout, so that its library never gets into priv/ here: _build/matrix/VERSION, which stays
# there with the logs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# From here on an interpreter has a GIL of its own, which is another way through much of the code.
OWN_GIL_MINOR=12

# The contract of protocols: what a second Python of a minor version, built and linked in its own way, could break.
CONFORMANCE=actions,buffers,calls,closing,interpreter,notify,terms,writing

# And what a minor version could: interpreters of their own, and what Python does inside.
CORE_SUITES=$CONFORMANCE,changes,contexts,extensions,interrupt,lifecycle,loop,soundness,variables

# For the core: what no Python changes is shown with the usual one. Each other has one of the backends, in turn, and a library
# that is built in half the time.
core_of() {
    local backends=(epoll uring)
    export CORE=${backends[$(cut -d. -f2 <<<"$1") % 2]}
    export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1
}

case ${1:-full} in
    core | full) extent=${1:-full} ;;
    *)
        echo "usage: test_matrix.sh core|full" >&2
        exit 2
        ;;
esac

usual=$(readlink -f "$(bash scripts/find_python.sh)")
versions=()
pythons=()
suites=()
declare -A chosen
own_gil=no
while IFS=$'\t' read -r version python problem; do
    if [ -n "$problem" ]; then
        echo "$version  $python  skipped: $problem"
        continue
    fi
    minor=${version%.*}
    if [ "$(cut -d. -f2 <<<"$version")" -ge "$OWN_GIL_MINOR" ]; then
        own_gil=yes
    fi
    if [ "$python" = "$usual" ]; then
        echo "$version  $python  is what \`make test' uses"
    elif [ "$extent" = core ] && [ -n "${chosen[$minor]:-}" ]; then
        echo "$version  $python  waits for \`make test-full'"
        continue
    else
        versions+=("$version")
        pythons+=("$python")
        if [ -n "${chosen[$minor]:-}" ]; then
            echo "$version  $python  the conformance suites: ${chosen[$minor]} is of the same minor version"
            suites+=("$CONFORMANCE")
        else
            echo "$version  $python"
            [ "$extent" = full ] && suites+=("") || suites+=("$CORE_SUITES")
        fi
    fi
    chosen[$minor]=${chosen[$minor]:-$version}
done < <(bash scripts/list_pythons.sh)

if [ "$own_gil" = no ]; then
    cat >&2 <<END
py_reactor: no Python of 3.$OWN_GIL_MINOR or later was found that the reactor can be built with. Contexts with a GIL of their own need one.
With pyenv:
    PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.13
or the package of a distribution that has it (Debian 13, Ubuntu 24.04):
    sudo apt-get install python3 python3-dev
END
    exit 1
fi

root=$PWD
for i in "${!versions[@]}"; do
    version=${versions[i]}
    copy=_build/matrix/$version
    only=()
    if [ -n "${suites[i]}" ]; then
        only=(--suite "test/${suites[i]//,/_SUITE,test/}_SUITE")
    fi
    echo "Python $version ($((i + 1)) of ${#versions[@]})"
    [ "$extent" = full ] || core_of "$version"
    rm -rf "$copy"
    bash scripts/copy_checkout.sh "$copy"
    if ! (cd "$copy" && PYTHON=${pythons[i]} CARGO_TARGET_DIR=$root/target/matrix/$version rebar3 ct "${only[@]}"); then
        echo "py_reactor: the suites fail with Python $version (${pythons[i]}); logs in $copy/_build/test/logs" >&2
        exit 1
    fi
    if [ "$extent" = full ] && ! (cd "$copy" && "${pythons[i]}" test/asyncio/conformance.py); then
        echo "py_reactor: CPython's tests of asyncio fail over our loops with Python $version (${pythons[i]})" >&2
        exit 1
    fi
done
echo "The suites pass with Python ${versions[*]:-, there is no other}"
