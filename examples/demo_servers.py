"""Two small servers: HTTP/1.1 with keep-alive, and an echo. `make run` starts them; see demo.erl."""

from __future__ import annotations

import erlang.reactor as reactor

HEAD_BYTES_MAX = 16384
END_OF_HEAD = b"\r\n\r\n"


class Http(reactor.Protocol):
    """Answers every GET with a line that names the path, and every HEAD with what is above that line."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = bytearray()
        self.closing = False

    def data_received(self, data: reactor.ReactorBuffer) -> reactor.Action:
        self.unread += data
        while (end := self.unread.find(END_OF_HEAD)) >= 0:
            head = bytes(self.unread[:end])
            del self.unread[: end + len(END_OF_HEAD)]
            if not self.answer(head):
                return self.send(then="close")
        if len(self.unread) > HEAD_BYTES_MAX:
            self.respond("431 Request Header Fields Too Large", "too long\n", keep=False)
            return self.send(then="close")
        return self.send(then="continue")

    def send(self, then: reactor.Action) -> reactor.Action:
        """Sends the answers; what does not fit now is left to `write_ready`."""
        self.closing = then == "close"
        del self.write_buffer[: self.write(bytes(self.write_buffer))]
        return "write_pending" if self.write_buffer else then

    def write_ready(self) -> reactor.Action:
        action = super().write_ready()
        return "close" if self.closing and not self.write_buffer else action

    def answer(self, head: bytes) -> bool:
        """Answers one request; False when the connection ends with it."""
        request, *lines = head.decode("latin-1").split("\r\n")
        try:
            method, path, version = request.split(" ")
        except ValueError:
            return self.respond("400 Bad Request", "not HTTP\n", keep=False)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        # A body would be taken for the next request.
        if method not in ("GET", "HEAD") or headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return self.respond("405 Method Not Allowed", "GET or HEAD without a body, please\n", keep=False)
        wish = headers.get("connection", "").lower()
        keep = wish == "keep-alive" if version == "HTTP/1.0" else wish != "close"
        return self.respond("200 OK", f"Hello! You requested {path}\n", keep, with_body=method == "GET")

    def respond(self, status: str, text: str, keep: bool, with_body: bool = True) -> bool:
        body = text.encode()
        self.write_buffer += (
            f"HTTP/1.1 {status}\r\n"
            f"Content-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        ).encode() + (body if with_body else b"")
        return keep


class Echo(reactor.Protocol):
    """Sends back what it receives, straight from the memory that the kernel received into."""

    def data_received(self, data: reactor.ReactorBuffer) -> reactor.Action:
        sent = self.write(data)
        if sent == len(data):
            return "continue"
        # The peer reads more slowly than it writes: the base class sends the rest, then comes back to reading.
        self.write_buffer += data[sent:]
        return "write_pending"
