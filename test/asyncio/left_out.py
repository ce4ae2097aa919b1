"""Tests of CPython's that are not run over our loops: pattern of "module:class.test", and the reason."""

LEFT_OUT: dict[str, str] = {
    "test_events:*.test_internal_fds": "asks for a pair of sockets in every loop: ours makes it when it is first used",
}
