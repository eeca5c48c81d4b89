"""A thread in the way."""

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
