"""The order of the package's rooms (tests/layers.py), and that what breaks it is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "layers.py"

if not (ROOT / "cgru").is_dir():
    pytest.skip("the sources are not beside these tests", allow_module_level=True)


def run(folder):
    return subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True)


def test_imports_run_downward():
    found = run(ROOT)
    assert (found.returncode, found.stdout) == (0, "imports run downward, without circles\n")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("model/spec.py", "from cgru import gru", "model imports cgru.gru of classes"),
        ("formats/files.py", "def f():\n    from cgru.engines import HOST", "formats imports cgru.engines of engines"),
        ("checks.py", "import cgru.model.spec", "ground imports cgru.model.spec of model"),
        ("run/tape.py", "import cgru", "run imports cgru. of top"),
        ("model/layer.py", "from cgru.model import value", "a circle of imports: cgru.model.cells"),
        ("attic.py", "", "attic.py: in no room"),
    ],
)
def test_a_planted_mistake_is_found(tmp_path, file, line, message):
    shutil.copytree(ROOT / "cgru", tmp_path / "cgru", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    with (tmp_path / "cgru" / file).open("a") as stream:
        stream.write(f"\n{line}\n")
    found = run(tmp_path)
    assert found.returncode == 1
    assert message in found.stdout
