"""The table of formats: each row's parts agree, and packages are imported only where a format needs them."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest

import cgru
from cgru import formats
from cgru.formats import FORMATS

from ..support.keras_models import KERAS_WARNINGS

NEEDED = ("h5py", "keras", "onnx", "safetensors", "torch")
"""Packages that formats need, as they are imported."""


@pytest.mark.filterwarnings(*KERAS_WARNINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_writes_is_recognised_by_content_and_loaded(name, tmp_path):
    gru = cgru.GRU(3, 4, rng=0)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)  # (T, B, I)
    for suffix in FORMATS[name].written:
        assert suffix in FORMATS[name].suffixes
        path = tmp_path / f"m{suffix}"
        FORMATS[name].save(gru.value, path)
        renamed = path.rename(tmp_path / "renamed.bin")
        assert formats.kind(renamed) == name
        loaded = cgru.load(renamed)
        given = x.swapaxes(0, 1) if loaded.batch_first else x
        np.testing.assert_array_equal(loaded(given)[1], gru(x)[1])
        with renamed.open("rb") as file:
            assert zipfile.is_zipfile(file) == bool(FORMATS[name].entry)


def test_messages_list_every_format(tmp_path):
    (tmp_path / "m").write_bytes(b"nothing of the kind")
    with pytest.raises(cgru.FormatError) as error:
        cgru.load(tmp_path / "m")
    for row in FORMATS.values():
        assert row.title in str(error.value)
        assert all(suffix in str(error.value) for suffix in row.suffixes)


def answer(code, hidden=()):
    """What a fresh interpreter prints, in which some packages are missing."""
    code = f"import sys\nfor name in {tuple(hidden)!r}: sys.modules[name] = None\nimport cgru\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", [name for name, row in FORMATS.items() if row.written])
def test_what_a_format_needs_is_named_where_it_is_missing(name, tmp_path):
    row = FORMATS[name]
    path = tmp_path / f"m{row.written[0]}"
    code = f"from cgru.formats import FORMATS\ntry: FORMATS[{name!r}].save(cgru.GRU(3, 4).value, {str(path)!r})\n"
    said = answer(code + "except ImportError as error: print(error)", NEEDED)
    if row.needs:
        assert said.startswith(f'{row.title} needs another package: pip install "{row.needs}" (')
        assert not path.exists()
    else:
        assert said == ""
        assert cgru.load(path).hidden_size == 4


@pytest.mark.parametrize("code", ["cgru.from_onnx", "cgru.GRU(3, 4).to_keras()", "cgru.GRU(3, 4).to_torch()"])
def test_calls_name_what_they_need(code):
    said = answer(f"try: {code}\nexcept ImportError as error: print(error)", NEEDED)
    assert 'needs another package: pip install "' in said


def test_the_table_imports_nothing():
    assert answer(f"import cgru.formats\nprint([name for name in {NEEDED!r} if name in sys.modules])") == "[]"
