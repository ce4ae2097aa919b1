"""Protocols that try what write() and read() do."""

import array
import mmap
import sys
import threading

from recorder import Recording, note, protocol


def value(tag, name):
    return getattr(protocol(tag), name)


def read(tag, size):
    return protocol(tag).read(size)


def write_from_thread(tag):
    raised = []

    def attempt():
        try:
            protocol(tag).write(b"from elsewhere")
        except Exception as error:
            raised.append(type(error).__name__)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return raised[0] if raised else "nothing"


class FillsUp(Recording):
    """Writes more than there is room for, then, once there is room, as much again."""

    def data_received(self, data):
        self.answers = [self.write(b"a" * 60000), self.write(b"b" * 60000), self.write(b"c"), self.write(b"")]
        self.left = None
        note(self.tag, "data_received")
        return "write_pending"

    def write_ready(self):
        if self.left is None:
            self.left = 65536
            self.room = self.write(b"d" * self.left)
            self.left -= self.room
        else:
            self.left -= self.write(b"d" * self.left)
        return "continue" if self.left else "close"


class Bytes(bytes):
    pass


class EveryKind(Recording):
    def data_received(self, data):
        mapped = mmap.mmap(-1, 5)
        mapped[:] = b"mmap,"
        kinds = [
            b"bytes,",
            bytearray(b"bytearray,"),
            memoryview(b"memoryview,"),
            array.array("I", [1, 2]),
            data,
            b"",
            memoryview(bytearray(b"a slice, cut"))[2:8],
            mapped,
            Bytes(b"subclass"),
        ]
        self.answers = [self.write(kind) for kind in kinds]
        return "close"


class WrongKinds(Recording):
    def data_received(self, data):
        self.answers = []
        for wrong in ("text", None, 5, [1, 2], object(), memoryview(b"abcdef")[::2]):
            try:
                self.write(wrong)
                self.answers.append("nothing")
            except Exception as error:
                self.answers.append(type(error).__name__)
        self.write(b"still alive")
        return "close"


class Mutates(Recording):
    """Changes what it has written, at once, while the kernel has room for a part of it only."""

    def data_received(self, data):
        buffer = bytearray(b"a" * 40000)
        self.write(buffer)
        buffer[:] = b"b" * 40000
        view = memoryview(buffer)
        self.write(view)
        view[:] = b"!" * 40000
        numbers = array.array("B", b"c" * 40000)
        self.write(numbers)
        numbers[0:40000] = array.array("B", b"?")
        return "close"


class ManySmall(Recording):
    """Alternates between the kinds that are copied and those that are not."""

    def data_received(self, data):
        for number in range(10000):
            text = b"%d," % number
            if self.write(text if number % 3 else bytearray(text)) != len(text):
                raise AssertionError("there is room for all of it")
        return "close"


class WritesWhenLost(Recording):
    def connection_lost(self):
        self.answers = [self.write(b"too late"), self.read()]
        super().connection_lost()


class Reads(Recording):
    def data_received(self, data):
        note(self.tag, "data_received", bytes(data))
        return "async_pending"

    def write_ready(self):
        return "read_pending"


class CallsSuper(Recording):
    def write_ready(self):
        return super().write_ready()


class ReplacesBuffer(Recording):
    def data_received(self, data):
        self.write_buffer = bytearray(b"replaced")
        return "write_pending"


class LosesBuffer(Recording):
    """What data_received is sent becomes of write_buffer."""

    def data_received(self, data):
        if data == b"deleted":
            del self.write_buffer
        else:
            self.write_buffer = bytes(data)
        return "write_pending"


class BeginsAnew(Recording):
    """Echoes by a write_buffer that begins in the midst of its memory, and notes what memory an empty one has."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.kept = []

    def data_received(self, data):
        self.kept.append(sys.getsizeof(self.write_buffer) - sys.getsizeof(bytearray()))
        if len(self.write_buffer) or bytes(self.write_buffer) or self.write_buffer != bytearray():
            self.write_buffer += b"not empty"
        self.write_buffer += b"xx" + data + b"y"
        del self.write_buffer[:2]
        del self.write_buffer[-1:]
        return "write_pending"

    @property
    def keeps_little(self):
        # From Python 3.15 on it is laid out otherwise.
        return max(self.kept) <= 512 and (max(self.kept) > 64 or sys.version_info >= (3, 15))


class HoldsBuffer(Recording):
    """Changes what was its write_buffer, although the client has not read that yet."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.mine = self.write_buffer

    def data_received(self, data):
        if data == b"write":
            self.mine.extend(b"a" * 200_000)
            return "write_pending"
        self.left = len(self.mine)
        self.mine.extend(b"b" * 200_000)
        self.mine.clear()
        note(self.tag, "changed")
        return "continue"


class OneObject(Recording):
    """Writes one object that is far longer than the mark, then more."""

    def data_received(self, data):
        self.answers = [self.write(b"a" * 3_000_000), self.write(b"b" * 65536), self.write(bytearray(b"b"))]
        self.room = None
        note(self.tag, "data_received")
        return "write_pending"

    def write_ready(self):
        if self.room is None:
            self.room = self.write(bytearray(b"b" * 65536))
            self.left = 65536 - self.room
        else:
            self.left -= self.write(b"b" * self.left)
        return "continue" if self.left else "close"


class Counts(Recording):
    """Answers each request by the next numbers: so many bytes of them by write, and so many by write_buffer."""

    NUMBERS = b"".join(number.to_bytes(4, "big") for number in range(150_000))

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.requests = bytearray()
        self.written = 0

    def more(self, length):
        self.written += length
        return self.NUMBERS[self.written - length : self.written]

    def data_received(self, data):
        self.requests += data
        while len(self.requests) >= 4:
            before = self.more(self.requests[0])
            # What is refused, and what comes behind that, waits in write_buffer.
            if not self.write_buffer:
                before = before[self.write(before) :]
            self.write_buffer += before + self.more(int.from_bytes(self.requests[1:4], "big"))
            del self.requests[:4]
        return "write_pending" if self.write_buffer else "continue"


class FiveGigabytes(Recording):
    def data_received(self, data):
        self.answer = self.write(bytes(5 << 30))
        return "close"


class AsDocumented(Recording):
    """The write_ready of the documents; counts what it copies."""

    def data_received(self, data):
        self.copied = 0
        if data == b"header":
            self.write(data)
        self.write_buffer.extend(b"d" * 10_000_000)
        return "write_pending"

    def write_ready(self):
        self.copied += len(self.write_buffer)
        written = self.write(bytes(self.write_buffer))
        del self.write_buffer[:written]
        return "continue" if self.write_buffer else "read_pending"


class HoldsView(Recording):
    """Catches that its write_buffer cannot be sent, three times, then lets go of the view."""

    def data_received(self, data):
        self.refused = 0
        self.write_buffer += data + b" once"
        self.view = memoryview(self.write_buffer)
        if data == b"by write":
            self.write = lambda data: super(HoldsView, self).write(data)
        return "write_pending"

    def write_ready(self):
        try:
            super().write_ready()
        except BufferError:
            self.refused += 1
            if self.refused == 3:
                self.view.release()
        return "continue" if self.write_buffer else "close"


class Unhelpful(bytearray):
    def __len__(self):
        return 0

    def __bool__(self):
        return True

    def __bytes__(self):
        return b"something else"

    def __delitem__(self, key):
        pass

    def __setitem__(self, key, value):
        pass

    def clear(self):
        pass


class Uncuttable(Recording):
    """What data_received is sent says what keeps its write_buffer from being cut."""

    def data_received(self, data):
        self.how = bytes(data)
        if data == b"subclass":
            self.write_buffer = Unhelpful()
        else:
            self.write = self.write_with_trouble
        self.write_buffer.extend(b"a" * 300_000)
        return "write_pending"

    def write_with_trouble(self, data):
        written = super().write(data[:100_000])
        if self.how == b"viewed":
            self.view = memoryview(self.write_buffer)
        elif self.how == b"appended":
            self.write_buffer += b"tail"
            self.how = b""
        elif self.how == b"raises":
            self.how = b""
            self.taken = written
            raise OSError("after the fact")
        return written

    def write_ready(self):
        try:
            action = super().write_ready()
        except OSError:
            # It has not said what it took.
            del self.write_buffer[: self.taken]
            return "continue"
        return "close" if action == "read_pending" else action


class ByteByByte(Recording):
    """Writes one byte at a time, until there is no room."""

    def data_received(self, data):
        while self.write(b"x"):
            pass
        note(self.tag, "data_received")
        return "continue"


class EchoRegardless(Recording):
    """Echoes, and only counts what write refuses."""

    received = refused = 0

    def data_received(self, data):
        self.received += len(data)
        self.refused += len(data) - self.write(data)
        return "continue"
