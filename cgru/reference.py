"""The path of `cgru.model.reference` in earlier versions."""

from cgru.model.reference import *  # noqa: F403
