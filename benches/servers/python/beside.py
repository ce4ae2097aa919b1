"""What servers do beside a small message: take a flood, or send a document."""

from __future__ import annotations

MESSAGE_BYTES = 64

#: All byte values, again and again.
DOCUMENT = bytes(range(256)) * (50 * 1024 * 1024 // 256)


class Sink:
    """Sends messages back; a connection that says more at once gets no answers."""

    _floods = False

    def answer(self, data: bytes) -> bytes:
        """What to send for ``data``."""
        if self._floods or len(data) > MESSAGE_BYTES:
            self._floods = True
            return b""
        return data


class Library:
    """Sends messages back, and answers longer ones with the document."""

    def answer(self, data: bytes) -> bytes:
        """What to send for ``data``."""
        return DOCUMENT if len(data) > MESSAGE_BYTES else data
