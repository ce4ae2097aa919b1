#!/usr/bin/env bash
# Looks for accesses to memory that is freed, out of bounds, or was never written; the first one ends the run with a report.
#
# The tests of the crate run under valgrind, but for those of the ring, which valgrind brings to a standstill. The suites
# of Common Test (but that of the documents) and the soak, which are real servers in the Erlang VM, run with a native
# library that AddressSanitizer watches: under valgrind, the VM's generated code is too slow and makes too many false
# reports. gcc's libasan stands in for that of rustc, which cannot be loaded into a program that was built without it.
#
# In a copy of this checkout, so that this library never gets into priv/ here. Needs valgrind and gcc.
#
#   SUITES          (default: all but docs)
#   SOAK_SECONDS    (default 60), for each of BACKENDS (default "uring epoll"); the other variables of the soak
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh valgrind:valgrind
libasan=$(gcc -print-file-name=libasan.so)
if [ "$libasan" = libasan.so ]; then
    echo "py_reactor: gcc has no libasan. On Debian: apt-get install gcc" >&2
    exit 1
fi
suites=${SUITES:-$(cd test && printf '%s\n' *_SUITE.erl | sed 's/_SUITE.erl//' | grep -vx docs)}
python=$(bash scripts/find_python.sh)
host=$(rustc -vV | sed -n 's/^host: //p')

export PYO3_PYTHON=$python
runner=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$host")_RUNNER
env "$runner=valgrind --quiet --error-exitcode=9 --num-callers=30" cargo test --locked --lib -- --skip uring

copy=$(mktemp -d)
finish() {
    status=$?
    if compgen -G "$copy/report.*" >/dev/null; then
        cat "$copy"/report.*
        echo "memcheck: FAILED, see the report above"
        status=1
    fi
    rm -rf "$copy"
    exit "$status"
}
trap finish EXIT
bash scripts/copy_checkout.sh "$copy"

# The proc macros of the build must not be instrumented: rustc loads them. So a target is named. RUSTC_BOOTSTRAP: the usual
# compiler has the sanitizer, and takes -Z by this alone.
export RUSTC_BOOTSTRAP=1 CARGO_BUILD_TARGET=$host CARGO_TARGET_DIR=$PWD/target/asan CARGO_PROFILE_RELEASE_LTO=off
cd "$copy"
RUSTFLAGS="-Zsanitizer=address --cfg pyo3_disable_reference_pool" rebar3 do compile, ct --compile_only

# Leaks: Python and the VM keep much until the end. Signal stacks: the VM has its own. Locals stay on the stack, whose depth
# is measured by them.
watched() {
    LD_PRELOAD=$libasan PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:use_sigaltstack=0:log_path=$copy/report "$@"
}

lib=$copy/_build/test/lib/py_reactor
mkdir logs
watched erl -noshell -pa "$lib/ebin" -pa "$lib/test" -eval "
    {_Ok, Failed, {_Skipped, AutoSkipped}} = ct:run_test([
        {dir, \"$lib/test\"}, {suite, [$(printf '"%s_SUITE",' $suites | sed 's/,$//')]}, {logdir, \"logs\"}, {auto_compile, false}
    ]),
    halt(min(1, Failed + AutoSkipped))."
watched env SOAK_SECONDS="${SOAK_SECONDS:-60}" "$python" test/soak/soak.py
