"""Tests of others that are not run over our loops: pattern of "module:class.test", and the reason."""

import sys

CPYTHON: dict[str, str] = {
    "test_events:*.test_internal_fds": "asks for a pair of sockets in every loop: ours makes it when it is first used",
    "test_base_events:*.test_create_server_soreuseport_only_defined": "expects what asyncio says of the number of a double of a socket",
    **{
        f"test_base_events:BaseEventLoopWithSelectorTests.test_create_connection_{case}": "gives a transport a double of a socket"
        for case in ("ip_addr", "ipv6_scope", "no_inet_pton", "service_name")
    },
    "test_unix_events:Unix*PipeTransportTests.*": "asyncio's own transports of pipes, over a double of its loop",
    "test_subprocess:GenericWatcherTests.test_create_subprocess_with_pidfd": (
        "succeeds only after a test that has set an event loop, on asyncio's own loops, too (3.12)"
    ),
}

# What a test asks for that is no loop's but uvloop's.
UVLOOPS_OWN: dict[str, str] = {
    "test_fs_event:*": "uvloop watches files, by a method of its own",
    "test_libuv_api:*": "libuv",
    "test_process:Test_UV_Process_Delayed.*__paused_*": "an argument of uvloop's own, for its tests",
    "test_signals:*.test_signals_no_SIGCHLD": "uvloop needs the signal for itself, and refuses it",
    "test_sockets:*.test_socket_sync_remove": "looks into libuv's epoll set",
}

# Where uvloop does otherwise than asyncio, we do as asyncio. The suite itself makes the same exceptions for that, or runs these
# tests for uvloop only.
UVLOOP: dict[str, str] = {
    "test_base:*.test_thread_name_prefix_in_default_executor": "the executor is asyncio's, whose threads are called after it",
    **{
        f"test_sockets:*.test_socket_{what}_and_close": "a socket that is closed is closed at once; uvloop keeps it until nobody waits for it"
        for what in ("close_loop", "connect", "recv", "recv_into")
    },
    "test_sockets:*.test_pseudosocket": "asyncio's TransportSocket has another text, and no methods that it refuses",
    "test_tcp:*.test_create_server_buffered_2": "connection_lost gets what the protocol has raised; uvloop wraps it",
    "test_tcp:*.test_shutdown_timeout_handler_not_set": (
        "what came before the end of a connection is delivered when reading goes on; uvloop throws it away"
    ),
    "test_tcp:*.test_tcp_handle_abort_in_connection_made": "a transport has a socket to show when it is closed, too",
    "test_udp:*.test_udp_sendto_dns": "sendto looks a name up; uvloop refuses it",
}
if sys.version_info < (3, 12):
    UVLOOP["test_unix:*.test_epollhup"] = "a server waits for its connections since 3.12 only"
if sys.version_info >= (3, 13):
    UVLOOP["test_udp:*.test_create_datagram_endpoint_wrong_sock"] = "asyncio has other words for it since 3.13"
if (3, 13) <= sys.version_info < (3, 13, 3):
    UVLOOP["test_base:*.test_loop_create_task_eager_start"] = "asyncio's create_task has that argument since 3.13.3 only"
