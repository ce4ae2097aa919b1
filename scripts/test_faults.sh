#!/usr/bin/env bash
# Makes drivers panic and lose ends, then runs the suites of the connection's contract against drivers that make things go wrong
# (src/driver/faults.rs), in a copy of this checkout, so that the library with faults never gets into priv/ here.
#
#   SEEDS      (default "1 2 3"): each is one run; the same one makes the same faults in the same order of events
#   SUITES     (default: those whose promises faults must not break)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seeds=${SEEDS:-1 2 3}
suites=${SUITES:-actions closing writing factories descriptors limits}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
bash scripts/copy_checkout.sh "$copy"

paths=$(printf 'test/%s_SUITE,' $suites)
export CARGO_FEATURES=faults CARGO_TARGET_DIR=$PWD/target/faults
# As few buffers as there can be: receives find none.
export ERL_FLAGS="-py_reactor buffers 16"
cd "$copy"
echo "PY_REACTOR_FAULTS=0: panics in the drivers, and ends that they lose"
PY_REACTOR_FAULTS=0 rebar3 ct --suite test/panics_SUITE,test/ends_SUITE
for seed in $seeds; do
    echo "PY_REACTOR_FAULTS=$seed"
    PY_REACTOR_FAULTS=$seed rebar3 ct --suite "${paths%,}"
done
