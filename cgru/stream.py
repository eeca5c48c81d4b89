"""The path of `cgru.run.stream` and `cgru.run.pool` in earlier versions, whose pickles name it."""

from cgru.run.pool import StreamPool, _restore_pool
from cgru.run.stream import ArrayStream as DoubleStream
from cgru.run.stream import Stream, _restore

__all__ = ["DoubleStream", "Stream", "StreamPool", "_restore", "_restore_pool"]
