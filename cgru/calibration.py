"""The path of `cgru.run.calibration` in earlier versions."""

from cgru.run.calibration import *  # noqa: F403
