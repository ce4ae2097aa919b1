#!/bin/bash
# What test_kernels.sh runs as the first process of the machine that it boots. Never run it anywhere else: it ends the machine.
# Lines that begin with `guest:' are what test_kernels.sh reads.
[ $$ = 1 ] || exit 1
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 TERM=dumb
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t devtmpfs dev /dev
ln -sf /proc/self/fd /dev/fd
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
ip link set lo up 2>/dev/null || python3 - <<'UP'
import fcntl, socket, struct

with socket.socket() as s:  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING
    fcntl.ioctl(s, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))
UP
cd /py_reactor || exit 1
ulimit -n 65536
passed=true
echo "guest: kernel: $(uname -r)"

backend=$(erl -noinput -pa _build/default/lib/py_reactor/ebin -eval '
    {ok, _} = application:ensure_all_started(py_reactor),
    {ok, _} = py:start_contexts(1),
    #{backend := Backend} = py_reactor_context:stats(1),
    io:format("~p", [Backend]), halt().')
echo "guest: backend: $backend"

# Each in a process of its own: one that aborts hides no other.
good=0 bad=0
while read -r test; do
    if ./crate_tests --color never --exact "$test" >/tmp/crate.log 2>&1; then
        good=$((good + 1))
    else
        bad=$((bad + 1))
        passed=false
        grep -v '^ *[0-9]*: \|^ *at ' /tmp/crate.log
    fi
done < <(./crate_tests --list driver:: uring:: fallback:: | sed -n 's/: test$//p')
echo "guest: crate: $good passed; $bad failed"

# Each in a VM of its own, over the backend that was chosen: when the time is over, it is known which were run.
good=0 bad=0
for suite in $(cat kernel_suites); do
    mkdir -p "/tmp/logs/$suite"
    began=$SECONDS
    ct_run -noinput -logdir "/tmp/logs/$suite" -dir _build/test/lib/py_reactor/test -suite "${suite}_SUITE" -group "$backend" \
        -pa _build/test/lib/py_reactor/ebin >/tmp/ct.log 2>&1
    read -r ok failed < <(sed -nE 's/.*TEST COMPLETE, ([0-9]+) ok, ([0-9]+) failed.*/\1 \2/p' /tmp/ct.log)
    echo "guest: suite $suite: ${ok:-0} passed; ${failed:-none counted} failed; $((SECONDS - began)) s"
    good=$((good + ${ok:-0}))
    bad=$((bad + ${failed:-1}))
    if [ "${failed:-1}" != 0 ]; then
        passed=false
        tail -200 /tmp/ct.log
    fi
done
echo "guest: suites: $good passed; $bad failed"
$passed && echo "guest: passed" || echo "guest: failed"
sync
echo o >/proc/sysrq-trigger
while :; do read -rt 1 <> <(:); done
