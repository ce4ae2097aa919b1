"""Functions that show what became of an Erlang term."""

import collections
import enum

_kept = None


def identity(value):
    return value


def show(value):
    return f"{type(value).__name__} {value!r}"


def decimal(number):
    return format(number, "d")


def class_name(value):
    return type(value).__name__


def compare(one, same, other, pid):
    return [one == same, one == other, hash(one) == hash(same), len({one, same, other, pid}) == 3]


def keep(value):
    global _kept
    _kept = value


def kept():
    return _kept


def nest(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def cycle(kind):
    value = {"list": [], "dict": {}}[kind]
    if kind == "list":
        value.append(value)
    else:
        value["self"] = value
    return value


class Number(enum.IntEnum):
    FIVE = 5


class Text(str):
    pass


class Bytes(bytes):
    pass


class List(list):
    pass


def subclasses():
    point = collections.namedtuple("Point", "x y")
    return [Number.FIVE, Text("text"), Bytes(b"bytes"), List([1]), point(1, 2), collections.OrderedDict(a=1)]
