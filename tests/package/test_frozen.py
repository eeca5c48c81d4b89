"""Applications frozen by PyInstaller: they hold what its hook and readable import statements name, and compute."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cgru

PACKAGE = Path(cgru.__file__).parent
SOURCES = PACKAGE.parent / "src"
HOOKS = PACKAGE / "__pyinstaller"


def computed_imports(text):
    """Lines that import a module by a name that is not a literal."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            literal = node.args and isinstance(node.args[0], ast.Constant)
            if called in ("import_module", "__import__") and not literal:
                yield node.lineno


def test_no_import_is_computed():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 50
    assert {path: lines for path in files if (lines := list(computed_imports(path.read_text())))} == {}


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("import_module('cgru.gru')", []),
        ("import_module(name)", [1]),
        ("import importlib\nimportlib.import_module(f'cgru.{name}')", [2]),
        ("__import__('cgru.' + name)", [1]),
    ],
)
def test_computed_imports_are_found(text, lines):
    assert list(computed_imports(text)) == lines


def hook():
    spec = importlib.util.spec_from_file_location("hook_cgru", HOOKS / "hook-cgru.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hook_is_where_pyinstaller_asks():
    from cgru import __pyinstaller

    assert [Path(folder) for folder in __pyinstaller.get_hook_dirs()] == [HOOKS]
    assert all(Path(file).is_file() and (PACKAGE.parent / folder).is_dir() for file, folder in hook().datas)


def test_hook_names_what_compiled_modules_import():
    if not SOURCES.is_dir():
        pytest.skip("the compiled sources are not beside the package")
    named = set()
    for path in [*SOURCES.glob("*.pyx"), *SOURCES.glob("*.pxd")]:
        for line in path.read_text().splitlines():
            if match := re.match(r"from (cgru|scipy)((?:\.\w+)*) c?import (\w+)", line.strip()):
                top, rest, name = match.groups()
                named.add(f"{top}{rest}" if rest else f"{top}.{name}")
            elif match := re.match(r"import (\w+)", line.strip()):
                named.add(match[1])
    for path in SOURCES.rglob("*.h"):
        named |= set(re.findall(r'PyImport_ImportModule\("([\w.]+)"\)', path.read_text()))
    assert {"cgru.checks", "scipy.linalg.cython_blas", "threading"} <= named
    assert named - set(hook().hiddenimports) == set()


APPLICATION = """
import sys
import numpy as np, cgru
for dtype in ("float32", "float64"):
    gru = cgru.GRU(3, 4, rng=0, dtype=dtype)
    x = np.linspace(-1, 1, 30).reshape(5, 2, 3).astype(dtype)
    y, h_n = gru(x)
    print(y.sum().item(), h_n.sum().item(), gru.stream(2).process(x).sum().item())
    y, h_n, tape = gru.record(x)
    grads = tape.backward(np.ones_like(y))
    print(y.sum().item(), np.asarray(grads.x).sum().item())
    gru.save("model.safetensors" if dtype == "float32" else "model64.safetensors")
print(cgru.load("model.safetensors")(x.astype("float32"))[0].sum().item())
print(cgru.compare.__module__, cgru.from_flax.__module__)
cgru.show_config()
"""


@pytest.mark.long
def test_a_frozen_application_computes(tmp_path):
    pytest.importorskip("PyInstaller")
    application = tmp_path / "app.py"
    application.write_text(APPLICATION)
    # Other libraries are optional, and large.
    optional = ("torch", "keras", "tensorflow", "sklearn", "onnx", "onnxruntime", "matplotlib", "cupy", "jax", "flax")
    command = [sys.executable, "-m", "PyInstaller", "--onedir", "-y", "--log-level", "ERROR"]
    command += ["--paths", str(PACKAGE.parent), "--additional-hooks-dir", str(HOOKS)]
    command += [f"--exclude-module={name}" for name in optional]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "env": environment}
    done = subprocess.run([*command, application.name], **options)
    assert done.returncode == 0, done.stderr
    frozen = subprocess.run([str(tmp_path / "dist" / "app" / "app")], **{**options, "env": None})
    assert frozen.returncode == 0, frozen.stderr
    plain = subprocess.run([sys.executable, application.name], **options)
    assert plain.returncode == 0, plain.stderr
    assert frozen.stdout == plain.stdout
    assert len(frozen.stdout.splitlines()) > 5
    assert (tmp_path / "dist" / "app" / "_internal" / "cgru" / "engines" / "cuda" / "gru.cu").is_file()
