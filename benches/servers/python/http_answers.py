"""The HTTP case: what to answer, found with a real parser. The same for every Python server."""

from __future__ import annotations

from httptools import HttpRequestParser

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 13\r\n\r\nHello, world!"


class HttpAnswers:
    """Parses the requests of one connection; collects what an application would ask of them."""

    def __init__(self) -> None:
        self._parser = HttpRequestParser(self)
        self._complete = 0
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_message_begin(self) -> None:
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self._complete += 1

    def answer(self, data: bytes) -> bytes:
        """What to send for ``data``: a response for each request that it completes."""
        self._parser.feed_data(data)
        complete, self._complete = self._complete, 0
        return RESPONSE * complete
