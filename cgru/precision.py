"""The path of `cgru.model.precision` in earlier versions."""

from cgru.model.precision import *  # noqa: F403
