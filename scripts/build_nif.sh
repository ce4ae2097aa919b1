#!/usr/bin/env bash
# Builds the native library and fills priv/. rebar3 calls it before it compiles, in whatever directory it likes: as a
# dependency, that is _build/<profile>/lib/py_reactor of somebody else's project.
#
#   PYTHON             the Python to link against (default: python3)
#   CARGO_TARGET_DIR   where cargo builds (default: target/)
#   CARGO_FEATURES     features of the crate (none but for its own tests)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYO3_PYTHON=$(bash scripts/find_python.sh)
export PYO3_PYTHON

if ! command -v cargo >/dev/null; then
    echo "py_reactor: cargo is needed to build the native library. See https://rustup.rs" >&2
    exit 1
fi
# RUSTFLAGS of the environment would replace what .cargo/config.toml says.
if [ -n "${RUSTFLAGS:-}" ] && [[ $RUSTFLAGS != *pyo3_disable_reference_pool* ]]; then
    export RUSTFLAGS="$RUSTFLAGS --cfg pyo3_disable_reference_pool"
fi
# Only the library that the VM loads: a crate for Rust beside it would be compiled once more.
cargo rustc --release --locked --lib --crate-type cdylib ${CARGO_FEATURES:+--features "$CARGO_FEATURES"}

# A library that is loaded must never be written to, only replaced.
install_file() {
    cmp -s "$1" "$2" && return
    cp "$1" "$2.new.$$"
    mv -f "$2.new.$$" "$2"
}

mkdir -p priv
install_file "${CARGO_TARGET_DIR:-target}/${CARGO_BUILD_TARGET:+$CARGO_BUILD_TARGET/}release/libpy_reactor_nif.so" priv/py_reactor_nif.so

# For a plain Python: `_py_reactor.so` needs the library, and has what the library would find in the VM. Whoever looks for a
# symbol of one of the two looks in both.
mkdir -p priv/alone
if [ src/border/nif_stubs.rs -nt priv/alone/_py_reactor.so ]; then
    (cd priv && rustc --edition 2024 --crate-type cdylib --crate-name _py_reactor -C panic=abort ../src/border/nif_stubs.rs \
        -C link-args='-Wl,--no-as-needed -L. -l:py_reactor_nif.so -Wl,-rpath,$ORIGIN/..' -o "alone/new.$$.so")
    mv -f "priv/alone/new.$$.so" priv/alone/_py_reactor.so
fi

new=priv/python.new.$$
trap 'rm -rf "$new"' EXIT
mkdir "$new"
cp -R python/erlang "$new/"
for stub in python/*.pyi; do
    [ -e "$stub" ] && cp "$stub" "$new/"
done
find "$new" -name __pycache__ -prune -exec rm -rf {} +
if ! diff -rq -x __pycache__ "$new" priv/python >/dev/null 2>&1; then
    rm -rf priv/python
    mv "$new" priv/python
fi
