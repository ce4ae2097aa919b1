"""What messages_SUITE has Python send."""

import threading

import erlang


def send(to, term):
    erlang.send(to, term)


def send_from_thread(to, term):
    """From a thread that Python has started; answers the exception, if any."""
    failures = []

    def run():
        try:
            erlang.send(to, term)
        except Exception as exc:
            failures.append(f"{type(exc).__name__}: {exc}")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return failures


def send_numbers(to, count):
    for number in range(count):
        erlang.send(to, number)


def fill(to):
    """Sends until no more is taken; answers how many were."""
    count = 0
    while True:
        try:
            erlang.send(to, ("filled", count))
        except BlockingIOError:
            return count
        count += 1


def failure(to, term=None):
    try:
        erlang.send(to, term)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"


def send_a_set(to):
    return failure(to, [{1, 2}])


def send_to_no_name():
    return failure(5)


def own_pid():
    return erlang.self()


def is_a_pid(value):
    return isinstance(value, erlang.Pid)


def is_a_ref(value):
    return isinstance(value, erlang.Ref)


def own_pid_of_a_thread():
    answers = []

    def run():
        try:
            answers.append(erlang.self())
        except RuntimeError as exc:
            answers.append(str(exc))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return answers[0]
