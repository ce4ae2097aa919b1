"""Tests of others that are not run over our loops: pattern of "module:class.test", and the reason."""

CPYTHON: dict[str, str] = {
    "test_events:*.test_internal_fds": "asks for a pair of sockets in every loop: ours makes it when it is first used",
    "test_base_events:*.test_create_server_soreuseport_only_defined": "expects what asyncio says of the number of a double of a socket",
    "test_unix_events:Unix*PipeTransportTests.*": "asyncio's own transports of pipes, over a double of its loop",
    "test_subprocess:GenericWatcherTests.test_create_subprocess_with_pidfd": (
        "succeeds only after a test that has set an event loop, on asyncio's own loops, too (3.12)"
    ),
}

UVLOOP: dict[str, str] = {}
