"""Protocols that keep what they received, and watch that it does not change."""

import hashlib
import random
import threading

from recorder import Recording

_kept = {}


def _digest(data):
    return hashlib.sha256(data).digest()


def count_unchanged(tag):
    return sum(_digest(data) == digest for data, digest in _kept[tag])


def release(tag):
    del _kept[tag][:]


def release_all():
    for kept in _kept.values():
        del kept[:]


def release_on_threads(tag):
    def take_and_drop():
        while kept:
            try:
                kept.pop()
            except IndexError:
                return

    kept = _kept[tag]
    threads = [threading.Thread(target=take_and_drop) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Hoards(Recording):
    """Answers "kept" for each message of 1000 bytes, and keeps the buffers."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        _kept.setdefault(self.tag, [])
        self.size = 0

    def data_received(self, data):
        self.keep(data)
        self.size += len(data)
        if self.size == 1000:
            self.size = 0
            self.write(b"kept")
        return "continue"

    def keep(self, data):
        _kept[self.tag].append((data, _digest(data)))


class HoardsViews(Hoards):
    def keep(self, data):
        _kept[self.tag].append((data.memoryview()[:], _digest(data)))


class Node:
    pass


class HoardsInCycles(Hoards):
    def keep(self, data):
        node = Node()
        node.self = node
        node.data = data
        node.view = memoryview(data)
        _kept[self.tag].append((data, node))


class ReleasesAtRandom(Recording):
    """Keeps a few buffers and views at a time, drops random ones, and checks each when it is dropped."""

    def connection_made(self, fd, client_info):
        super().connection_made(fd, client_info)
        self.random = random.Random(self.tag)
        self.size = 0
        self.mine = _kept.setdefault(self.tag, [])

    def data_received(self, data):
        first = data[0]
        assert data == bytes([first]) * len(data)
        self.mine.append((memoryview(data) if self.random.random() < 0.5 else data, first))
        while len(self.mine) > self.random.randrange(20):
            kept, byte = self.mine.pop(self.random.randrange(len(self.mine)))
            assert bytes(kept) == bytes([byte]) * len(kept)
        self.size += len(data)
        if self.size == 500000:
            self.write(b"all of it, unchanged")
        return "continue"
