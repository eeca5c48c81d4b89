"""The path of `cgru.model.layer` in earlier versions."""

from cgru.model.layer import *  # noqa: F403
