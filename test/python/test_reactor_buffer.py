"""ReactorBuffer answers as bytes does."""

from __future__ import annotations

import copy
import pickle
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erlang.reactor import ReactorBuffer

short = st.binary(max_size=40)
index = st.one_of(st.none(), st.integers(-50, 50))


def outcome(call):
    """What a call returns or raises, comparable; messages may differ, kinds may not."""
    try:
        return call()
    except Exception as error:
        return type(error)


@given(short, short, index, index)
def test_looking(raw, other, start, stop):
    data = ReactorBuffer(raw)
    assert len(data) == len(raw)
    assert list(data) == list(raw)
    assert bool(data) == bool(raw)
    assert (other in data) == (other in raw)
    for name in ("find", "rfind", "index", "rindex", "count", "startswith", "endswith"):
        ours, theirs = getattr(data, name), getattr(raw, name)
        assert outcome(lambda f=ours: f(other, start, stop)) == outcome(
            lambda f=theirs: f(other, start, stop)
        )


@given(short, index, index, st.sampled_from([None, 1, 2, -1, -3]))
def test_indexing_and_slicing(raw, start, stop, step):
    data = ReactorBuffer(raw)
    assert data[start:stop:step] == raw[start:stop:step]
    position = 0 if start is None else start
    assert outcome(lambda: data[position]) == outcome(lambda: raw[position])


@given(short, short)
def test_comparing_hashing_joining(raw, other):
    data = ReactorBuffer(raw)
    assert data == raw and raw == data and data == ReactorBuffer(raw)
    assert hash(data) == hash(raw)
    assert {raw: 1}[data] == 1
    assert (data == other, data < other, data <= other) == (raw == other, raw < other, raw <= other)
    assert (data > other, other < data, data != other) == (raw > other, other < raw, raw != other)
    assert data + other == raw + other and other + data == other + raw
    assert b"-".join([data, other]) == b"-".join([raw, other])
    assert repr(data) == repr(raw)


@given(short)
def test_converting(raw):
    data = ReactorBuffer(raw)
    assert type(bytes(data)) is bytes
    assert bytes(data) == raw == bytearray(data) == memoryview(data) == data.memoryview()
    grown = bytearray(b"x")
    grown.extend(data)
    assert grown == b"x" + raw
    assert outcome(lambda: data.decode()) == outcome(lambda: raw.decode())
    assert data.decode("latin-1") == raw.decode("latin-1")
    assert data.hex() == raw.hex()


@pytest.mark.parametrize("name", [n for n in dir(bytes) if not n.startswith("_")])
def test_every_public_method_is_there(name):
    assert callable(getattr(ReactorBuffer(b"x"), name))


def test_memoryview_is_read_only():
    data = ReactorBuffer(b"GET /")
    view = data.memoryview()
    assert type(view) is memoryview
    assert view.readonly
    assert view[:3] == b"GET"
    assert view[0] == ord("G")
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(TypeError):
        data[0] = 1


def test_a_view_outlives_its_buffer():
    view = ReactorBuffer(b"kept").memoryview()
    assert bytes(view) == b"kept"


def test_it_is_a_copy_of_what_may_change():
    source = bytearray(b"before")
    data = ReactorBuffer(source)
    source[:] = b"after!"
    assert data == b"before"


def test_other_libraries_take_it():
    data = ReactorBuffer(b"\x00\x2a=42;")
    assert re.search(rb"=(\d+)", data)[1] == b"42"
    assert struct.unpack_from(">H", data) == (42,)
    assert int(ReactorBuffer(b"42")) == 42
    assert float(ReactorBuffer(b"4.5")) == 4.5
    assert isinstance(data, bytes)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_and_copy_give_bytes(protocol):
    data = ReactorBuffer(b"\x00data")
    for twin in (pickle.loads(pickle.dumps(data, protocol)), copy.copy(data), copy.deepcopy(data)):
        assert twin == data
        assert type(twin) is bytes


@pytest.mark.parametrize("wrong", [5, "text", None, [1, 2]], ids=repr)
def test_it_is_made_of_bytes_only(wrong):
    with pytest.raises(TypeError, match="bytes-like"):
        ReactorBuffer(wrong)


def test_an_empty_one():
    assert ReactorBuffer() == b"" == ReactorBuffer(b"")


def test_hexadecimal_digits_make_plain_bytes() -> None:
    for made in (ReactorBuffer.fromhex("61 62"), ReactorBuffer(b"x").fromhex("6162")):
        assert made == b"ab"
        assert type(made) is bytes
