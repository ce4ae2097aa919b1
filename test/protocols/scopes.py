"""What a link-local peer is called."""

import erlang.reactor as reactor


class Scoped(reactor.Protocol):
    """Tells the scope of its peer; answers a datagram to the address that the zones make of its sender."""

    def data_received(self, data):
        self.write(f"{self.client_info['addr']} {self.client_info.get('scope_id')}".encode())
        return "continue"

    def datagram_received(self, data, addr):
        for zone in bytes(data).decode().split():
            host = addr[0] if zone == "-" else f"{addr[0]}%{zone}"
            try:
                sent = self.sendto(zone.encode(), addr if zone == "-" else (host, addr[1]))
                assert sent == len(zone)
            except ValueError as error:
                self.sendto(str(error).encode(), addr)
        return "continue"
