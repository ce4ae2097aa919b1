"""Words of the contract between a protocol and who drives it, for all who speak of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

Action = Literal["continue", "write_pending", "read_pending", "async_pending", "close"]
"""What a callback returns: what to do with the connection next."""


class Wire(Protocol):
    """The other end of a connection that has no descriptor."""

    ended: bool

    def read_now(self, size: int, /) -> bytes | None:
        """What has arrived."""

    def write_now(self, data: Buffer, /) -> int:
        """How much of it is taken."""
