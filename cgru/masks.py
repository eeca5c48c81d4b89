"""The path of `cgru.run.masks` in earlier versions."""

from cgru.run.masks import *  # noqa: F403
