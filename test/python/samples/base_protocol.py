import erlang.reactor as reactor

class Protocol(reactor.Protocol):
    """Base protocol attributes and methods."""

    # Set by reactor on connection
    fd: int              # File descriptor
    client_info: dict    # Connection metadata from Erlang
    write_buffer: bytearray  # Buffer for outgoing data
    closed: bool         # Whether connection is closed

    def connection_made(self, fd: int, client_info: dict):
        # Initialize per-connection state
        self.request_buffer = bytearray()

    def data_received(self, data: bytes) -> str:
        self.request_buffer.extend(data)

        if self.request_complete():
            self.prepare_response()
            return "write_pending"

        return "continue"  # Need more data

    def write_ready(self) -> str:
        if not self.write_buffer:
            return "read_pending"

        written = self.write(bytes(self.write_buffer))
        del self.write_buffer[:written]

        if self.write_buffer:
            return "continue"  # More to write
        return "read_pending"  # Done writing

    def connection_lost(self):
        # Clean up resources
        self.cleanup()
