"""What functions_SUITE has Python call."""

import threading

import erlang
import erlang.reactor


def ask(name, *args):
    """The result, or what was raised: its class and text."""
    return ask_within(None, name, *args)


def ask_within(timeout, name, *args):
    try:
        return erlang.call(name, *args, timeout=timeout)
    except Exception as exc:
        return (type(exc).__name__, str(exc))


def ask_again_when_interrupted(name):
    try:
        return erlang.call(name, timeout=None)
    except erlang.reactor.Interrupted:
        return erlang.call(name, timeout=None)


def ask_with_default_timeout(name):
    return erlang.call(name)


def ask_often(name, count):
    return [erlang.call(name, number) for number in range(count)]


def ask_from_thread(name, *args):
    """From a thread that Python has started, while the context waits for it."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ask(name, *args)))
    thread.start()
    thread.join()
    return answers[0]


def ask_what_cannot_be_sent():
    return ask("echo", object())


class Asks(erlang.reactor.Protocol):
    """Answers with what the function `answer` makes of the request."""

    def data_received(self, data):
        self.write(erlang.call("answer", bytes(data)).encode())
        return "continue"

    def message_received(self, message):
        self.write(erlang.call(message).encode())
        return "continue"


async def ask_async(name, *args):
    return await ask_async_within(None, name, *args)


async def ask_async_within(timeout, name, *args):
    try:
        return await erlang.call_async(name, *args, timeout=timeout)
    except Exception as exc:
        return (type(exc).__name__, str(exc))


async def ask_all(name, count):
    import asyncio

    return await asyncio.gather(*[ask_async(name, number) for number in range(count)])


def ask_on_a_loop_of_its_own(name, *args):
    import asyncio

    return asyncio.run(ask_async(name, *args))
