"""What stands in the way of a call: another thread, and a failure at its end."""

import contextlib
import threading

from cgru._exclusive import alone


@contextlib.contextmanager
def held(held_object):
    """Have another thread be in an object while the block runs."""
    inside, leave = threading.Event(), threading.Event()

    @alone
    def stay(_):
        inside.set()
        leave.wait()

    thread = threading.Thread(target=stay, args=(held_object,))
    thread.start()
    inside.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def fails_behind(compute):
    """A function that computes, and fails where it has: a call may leave that to a run."""

    def failing(*arguments):
        if compute(*arguments) is None and compute.__name__ == "call":
            return
        raise KeyboardInterrupt

    return failing
