"""Tests of others that are not run over our loops: pattern of "module:class.test", and the reason."""

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

_UVLOOPS_OWN = "asks for what only uvloop has"
_AS_ASYNCIO = "as asyncio's loops do, for which the suite makes the same exception"
_TLS_IS_ASYNCIOS = "TLS is asyncio's, for which the suite makes the same exception"

UVLOOP: dict[str, str] = {
    "test_base:*.test_thread_name_prefix_in_default_executor": "the threads of the executor are called after asyncio",
    "test_context:*.test_create_connection_protocol": _AS_ASYNCIO,
    "test_context:*.test_create_ssl_server_*": _TLS_IS_ASYNCIOS,
    "test_context:*.test_datagram_protocol": _AS_ASYNCIO,
    "test_context:*.test_subprocess_protocol": _AS_ASYNCIO,
    "test_fs_event:*": _UVLOOPS_OWN,
    "test_libuv_api:*": _UVLOOPS_OWN,
    "test_process:Test_UV_Process_Delayed.*": _UVLOOPS_OWN,
    "test_signals:*.test_signals_no_SIGCHLD": "uvloop needs the signal for itself, and refuses it",
    "test_sockets:*.test_pseudosocket": "the text of asyncio's TransportSocket is another one",
    "test_sockets:*.test_socket_sync_remove": _UVLOOPS_OWN,
    **{
        f"test_sockets:*.test_socket_{what}_and_close": "a socket is closed at once, as asyncio's loops do; uvloop keeps it until nobody waits for it"
        for what in ("close_loop", "connect", "recv", "recv_into")
    },
    "test_udp:*.test_create_datagram_endpoint_reuse_address_*": "an argument that asyncio has no more since 3.11",
    "test_udp:*.test_socketpair": "a peer without a name is none to send to, as with asyncio's loops",
    "test_udp:*.test_udp_sendto_dns": "uvloop's message for a name in the place of an address",
    "test_unix:*.test_create_unix_server_path_stream_bittype": "an argument that asyncio has since 3.13",
    "test_unix:*.test_epollhup": "asyncio's servers wait for their connections since 3.12",
    "test_tcp:*.test_create_server_buffered_2": "uvloop's words for what a protocol raises",
    "test_tcp:*.test_tcp_handle_abort_in_connection_made": "asyncio's transports have a socket to show when they are closed, too",
    "test_tcp:*.test_bpo_39951_discard_trailing_data": "fails with asyncio's TLS, on its own loops, too",
    "test_tcp:*.test_start_tls_client_buf_proto_1": _TLS_IS_ASYNCIOS,
    "test_tcp:*.test_first_data_after_wakeup": _TLS_IS_ASYNCIOS,
    "test_tcp:*.test_flush_before_shutdown": _TLS_IS_ASYNCIOS,
    "test_tcp:*.test_shutdown_timeout_handler_not_set": _TLS_IS_ASYNCIOS,
    "test_tcp:*.test_shutdown_while_pause_reading": _TLS_IS_ASYNCIOS,
}
