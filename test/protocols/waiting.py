"""Protocols that answer when they are told to."""

from recorder import Recording


class Later(Recording):
    """An echo that waits for signal_write_ready."""

    def data_received(self, data):
        super().data_received(data)
        return "async_pending"
