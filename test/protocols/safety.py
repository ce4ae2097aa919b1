"""Attempts at what would harm the VM."""

import asyncio
import math
import multiprocessing
import os
import platform
import pty
import subprocess
import threading
from concurrent.futures import ProcessPoolExecutor

_TRUE = "/bin/true"

_attempts = {
    "fork": os.fork,
    "forkpty": os.forkpty,
    "execv": lambda: os.execv(_TRUE, [_TRUE]),
    "execve": lambda: os.execve(_TRUE, [_TRUE], {}),
    "execvp": lambda: os.execvp("true", ["true"]),
    "spawnv": lambda: os.spawnv(os.P_WAIT, _TRUE, [_TRUE]),
    "pty_fork": pty.fork,
    "pty_spawn": lambda: pty.spawn([_TRUE]),
    "multiprocessing_fork": lambda: multiprocessing.get_context("fork").Process(target=print).start(),
    "forkserver": lambda: multiprocessing.get_context("forkserver").Process(target=print).start(),
    "forkserver_pool": lambda: ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")).submit(print).result(),
    "forkserver_preload": lambda: multiprocessing.set_forkserver_preload(["json"]),
    "popen": lambda: subprocess.Popen([_TRUE]),
    "os_popen": lambda: os.popen(_TRUE),
    "system": lambda: os.system(_TRUE),
    "posix_spawn": lambda: os.posix_spawn(_TRUE, [_TRUE], {}),
    "posix_spawnp": lambda: os.posix_spawnp("true", ["true"], {}),
    "asyncio_subprocess": lambda: asyncio.run(asyncio.create_subprocess_exec(_TRUE)),
}


def attempt(name):
    """The exception, as the names of its class and its text."""
    us = os.getpid()
    try:
        _attempts[name]()
    except Exception as error:
        return type(error).__name__, str(error)
    finally:
        if os.getpid() != us:
            # It worked: the copy must not go on as if it were the VM.
            os._exit(0)
    return "nothing", "it worked"


def in_a_thread(name):
    said = []
    thread = threading.Thread(target=lambda: said.append(attempt(name)))
    thread.start()
    thread.join()
    return said[0][1]


def look_for_a_program():
    """Runs uname, if there is one."""
    return platform.processor()


def output_of(command):
    return subprocess.check_output(command)


def statuses_of_programs():
    child = subprocess.Popen(["sleep", "100"])
    child.terminate()
    return [subprocess.call(["sh", "-c", "exit 7"]), child.wait(), os.waitstatus_to_exitcode(os.system(_TRUE))]


def status_of_worker(start_method):
    process = multiprocessing.get_context(start_method).Process(target=os._exit, args=(7,))
    process.start()
    process.join(60)
    return process.exitcode


def pool_that_replaces_workers():
    """Each worker does one task."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return [int(root) for root in pool.map_async(math.sqrt, [1, 16, 81], chunksize=1).get(60)]
