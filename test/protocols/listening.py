import erlang.reactor as reactor


class TellsInfo(reactor.Protocol):
    """Says who the client is."""

    def connection_made(self, fd, client_info):
        self.write(" ".join(f"{key}={value!r}" for key, value in sorted(client_info.items())).encode())
