"""The path of `cgru.run.tape` in earlier versions."""

from cgru.run.tape import *  # noqa: F403
