#!/usr/bin/env bash
# Builds and installs what the servers need, all of it under target/bench-servers but for py_reactor itself. Quick when
# nothing has changed. Progress goes to standard error.
#
#   PYTHON   the Python for all of them (default: python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec >&2

here=benches/servers
out=target/bench-servers
mkdir -p "$out/ebin"
python=$(bash scripts/find_python.sh)

echo "servers: py_reactor"
rebar3 compile

echo "servers: floor"
cargo build --release --locked --manifest-path "$here/floor/Cargo.toml" --target-dir "$out/floor"

echo "servers: gen_tcp, socket and the frame for py_reactor"
erlc -Werror +warn_missing_spec -o "$out/ebin" "$here/erlang/bench_server.erl"
erlc -Werror +warn_missing_spec -pa "$out/ebin" -o "$out/ebin" "$here"/erlang/bench_{gen_tcp,socket,reactor}.erl

wanted="$python $("$python" -VV) $(cat "$here/requirements.txt" "$here/python/work.py" | cksum)"
if [ "$(cat "$out/made-for" 2>/dev/null)" != "$wanted" ]; then
    echo "servers: asyncio and uvloop, in a virtual environment with $python"
    rm -rf "$out/venv" "$out/made-for"
    "$python" -m venv "$out/venv"
    "$out/venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off -r "$here/requirements.txt"
    echo "servers: how much work takes 50 µs"
    "$out/venv/bin/python" "$here/python/calibrate.py" >"$out/cpu-iterations"
    echo "$python" >"$out/python"
    echo "$wanted" >"$out/made-for"
fi
