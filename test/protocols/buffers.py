"""Checks of a ReactorBuffer that holds a whole message."""

import copy
import hashlib
import io
import json
import pickle
import re
import struct
import zlib

import erlang.reactor as reactor

_check = None
_size = 0


def set_check(name, size):
    global _check, _size
    _check = globals()[name]
    _size = size


class Checks(reactor.Protocol):
    def data_received(self, data):
        assert type(data) is reactor.ReactorBuffer
        assert len(data) == _size, "the message came in pieces"
        _check(data)
        self.write(b"ok")
        return "close"


def operations_of_the_document(data):
    mv = memoryview(data)
    assert mv[0] == ord("G") and mv.readonly
    assert data[0:4] == b"GET "
    assert data[-1] == 10
    assert data.startswith(b"GET")
    assert data.find(b"\r\n") == 17
    assert data.count(b"/") == 3
    assert data.decode("utf-8") == "GET /a/b HTTP/1.0\r\n\r\n"
    assert data == b"GET /a/b HTTP/1.0\r\n\r\n" and not data == b"PING"
    copied = bytes(data)
    assert type(copied) is bytes and copied == data
    assert b"HTTP" in data and b"SMTP" not in data
    assert len(data) == 21
    buffer = bytearray()
    buffer.extend(data)
    assert buffer == data
    assert data.memoryview()[:3] == b"GET"
    assert b"Got: " + data == b"Got: GET /a/b HTTP/1.0\r\n\r\n"


def outcome(function, value):
    try:
        return function(value)
    except Exception as error:
        return type(error), str(error)


def answers_as_bytes_do(data):
    same = bytes(data)
    other = b"Host"
    for function in (
        len, hash, list, repr, bytes, bytearray, sorted, max, bool, str,
        lambda b: b == same, lambda b: same == b, lambda b: b != same, lambda b: b < other, lambda b: other < b,
        lambda b: b >= same, lambda b: b == "text", lambda b: b < 5,
        lambda b: b + other, lambda b: other + b, lambda b: bytearray(b"x") + b, lambda b: b + "text", lambda b: b * 2,
        lambda b: 2 * b, lambda b: b % (), lambda b: b[0], lambda b: b[-1], lambda b: b[1000], lambda b: b[3:9],
        lambda b: b[::-2], lambda b: b["x"], lambda b: other in b, lambda b: 71 in b, lambda b: 300 in b, lambda b: "x" in b,
        lambda b: {b: 1}[same], lambda b: {same: 1}[b], lambda b: b"-".join([b, b]), lambda b: b.join([b"1", b"2"]),
        lambda b: b.find(10), lambda b: b.find(b"H", 5, 30), lambda b: b.rfind(b"\r\n"), lambda b: b.index(b"nowhere"),
        lambda b: b.startswith((b"PUT", b"GET")), lambda b: b.endswith(b"42"), lambda b: b.partition(b"\r\n"),
        lambda b: b.rpartition(b":"), lambda b: b.split(), lambda b: b.split(b"\r\n", 2), lambda b: b.rsplit(b" ", 1),
        lambda b: b.splitlines(True), lambda b: b.strip(b"G2"), lambda b: b.lower(), lambda b: b.upper(), lambda b: b.title(),
        lambda b: b.replace(b"HTTP", b"SMTP"), lambda b: b.hex(), lambda b: b.hex(":"), lambda b: b.decode("latin-1"),
        lambda b: b.decode(), lambda b: b.decode("utf-8", "replace"), lambda b: b.isdigit(), lambda b: b.isascii(),
        lambda b: b.center(100, b"*"), lambda b: b.zfill(100), lambda b: b.expandtabs(), lambda b: b.removeprefix(b"GET "),
        lambda b: b.translate(None, b"aeiou"), lambda b: b.count(b"e"), lambda b: b.swapcase(), lambda b: b.unknown,
    ):
        expected, got = outcome(function, same), outcome(function, data)
        if isinstance(expected, tuple) and expected and isinstance(expected[0], type):
            assert got[0] is expected[0], (got, expected)
        else:
            assert got == expected and type(got) is type(expected), (got, expected)


def library_functions(data):
    same = bytes(data)
    assert re.match(rb"(\w+) (\S+) HTTP", data).groups() == (b"GET", b"/index.html?x=1")
    assert re.findall(rb"^([\w-]+): (.*)\r$", data, re.M) == [(b"Host", b"example.org"), (b"Content-Length", b"12")]
    assert struct.unpack_from("!I", data, 4) == struct.unpack_from("!I", same, 4)
    assert struct.unpack("!4s", data[:4]) == (b"GET ",)
    assert int(data[-2:]) == 42 and float(data[-2:]) == 42.0
    assert int(reactor.ReactorBuffer(b"17")) == 17
    assert int.from_bytes(data, "big") == int.from_bytes(same, "big")
    target = bytearray(b"> ")
    target.extend(data)
    target += data
    assert target == b"> " + same + same
    assert b"".join([data, b"|", data]) == same + b"|" + same
    assert io.BytesIO(data).read() == same
    assert zlib.crc32(data) == zlib.crc32(same)
    assert hashlib.sha256(data).digest() == hashlib.sha256(same).digest()
    assert json.loads(reactor.ReactorBuffer(b'{"a": [1]}')) == {"a": [1]}
    assert str(data, "latin-1") == same.decode("latin-1")
    assert b"%b" % data == same
    assert bytes.fromhex(data.hex()) == data
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        unpickled = pickle.loads(pickle.dumps(data, protocol))
        assert type(unpickled) is bytes and unpickled == same
    assert copy.copy(data) == same and copy.deepcopy(data) == same
    match data:
        case bytes():
            pass
        case _:
            raise AssertionError("not matched as bytes")


def it_is_read_only(data):
    same = bytes(data)
    view = data.memoryview()
    assert view.readonly and view.nbytes == len(data) and view.contiguous and view == same
    for change in (
        lambda: data.__setitem__(0, 1),
        lambda: view.__setitem__(0, 1),
        lambda: memoryview(data).__setitem__(slice(0, 3), b"PUT"),
        lambda: io.BytesIO(b"other").readinto(data),
    ):
        try:
            change()
        except (TypeError, AttributeError):
            continue
        raise AssertionError("it was changed")
    assert data == same
