#!/usr/bin/env bash
# Runs the example servers until SIGINT or SIGTERM, which ends them properly. Needs no terminal.
#
#   HTTP_PORT   (default 8080)
#   ECHO_PORT   (default 9000)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export HTTP_PORT=${HTTP_PORT:-8080} ECHO_PORT=${ECHO_PORT:-9000} EXAMPLES=$PWD/examples
library=_build/default/lib/py_reactor
if ! [ -f "$library/ebin/py_reactor.app" ]; then
    echo "py_reactor: nothing is built yet: run \`make run', or \`rebar3 compile' before this" >&2
    exit 1
fi
beams=_build/examples
mkdir -p "$beams"
erlc -o "$beams" examples/demo.erl

# The VM ignores SIGINT (+Bi), so that Ctrl-C, which reaches it as well, ends it by the SIGTERM that it gets from here.
erl -noinput +Bi -pa "$library/ebin" "$beams" -s demo </dev/null &
vm=$!
trap 'kill -TERM "$vm" 2>/dev/null || true' INT TERM HUP

# A trapped signal interrupts `wait', with a status of its own: only that of the VM counts.
while kill -0 "$vm" 2>/dev/null; do
    wait "$vm" || true
done
wait "$vm"
