"""What PyInstaller cannot see: the imports of compiled modules, and the text of the CUDA kernels.

It reads the import statements of Python files alone. Keep the list by the imports in src/.
"""

from pathlib import Path

hiddenimports = [
    "cgru._exclusive",
    "cgru._packed",
    "cgru.checks",
    "cgru.model.precision",
    "functools",
    "numpy",
    "os",
    "scipy.linalg.cython_blas",
    "threading",
]

datas = [(str(Path(__file__).parents[1] / "engines" / "cuda" / "gru.cu"), "cgru/engines/cuda")]
