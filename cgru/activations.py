"""The path of `cgru.model.activations` in earlier versions."""

from cgru.model.activations import *  # noqa: F403
