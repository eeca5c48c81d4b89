"""An ONNX file as protobuf's message, before anything is made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError, Message

from cgru.errors import FormatError
from cgru.formats import files

if TYPE_CHECKING:
    from pathlib import Path


def parse(path: Path) -> Any:
    """The model in a file."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(files.read(path))
    except DecodeError as error:
        raise FormatError(f"{path}: expected a whole ONNX model: {error}") from error
    return proto


def check_text(proto: Any, source: str) -> None:
    """Protobuf gives text that is no UTF-8 as bytes, which nothing here expects."""
    todo = [proto]
    while todo:
        for field, value in todo.pop().ListFields():
            values = [value] if isinstance(value, (str, bytes, Message)) else value
            if field.type == field.TYPE_MESSAGE:
                todo += values
            elif field.type == field.TYPE_STRING and any(isinstance(text, bytes) for text in values):
                raise FormatError(f"{source}: {field.full_name}: expected UTF-8, got {value!r}")
