"""Commands of the command line run in this process, and what they are given."""

import numpy as np
from click.testing import CliRunner

from cgru import cli

RNG = np.random.default_rng(3)


def command(*arguments, code=0, **options):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(code, message, *arguments, **options):
    result = command(*arguments, code=code, **options)
    assert message in " ".join(result.stderr.split()), result.stderr
    assert result.stdout == ""


def saved(gru, folder, file="m.safetensors"):
    gru.save(folder / file)
    return folder / file


def random(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)
