"""The HTTP case of reactor_protocols, apart: httptools cannot be imported in an interpreter with a GIL of its own."""

from __future__ import annotations

from http_answers import HttpAnswers
from reactor_protocols import Answers, AnswersZerocopy, WritesInPython

import erlang.reactor as reactor


class Http(HttpAnswers, Answers):
    pass


class HttpDoc(WritesInPython, Http):
    pass


class HttpZerocopy(HttpAnswers, AnswersZerocopy):
    pass


PROTOCOLS: dict[tuple[str, str], type[reactor.Protocol]] = {
    ("http", "base"): Http,
    ("http", "doc"): HttpDoc,
    ("http", "zerocopy"): HttpZerocopy,
}
