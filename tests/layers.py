"""The order of the package's rooms: imports run downward only, lazy ones included, and no circle of files remains.

python tests/layers.py [FOLDER]

Reads the syntax trees of FOLDER/cgru. Imports for type checkers alone do not count. Exits with 1 and lists what is wrong.
"""

import ast
import sys
from pathlib import Path

GROUND = ("errors", "types", "version", "checks", "config")
ROOMS = {  # a room: its files and folders, and the rooms below it that it may import
    "ground": (GROUND, ()),
    "model": (("model",), ("ground",)),
    "formats": (("formats",), ("ground", "model")),
    "engines": (("engines",), ("ground", "model")),
    "run": (("run",), ("ground", "model", "engines")),
    "classes": (
        ("parameters", "recurrent", "gru", "mingru", "network", "nodes"),
        ("ground", "model", "formats", "engines", "run"),
    ),
    "earlier paths": (
        ("activations", "calibration", "layer", "masks", "precision", "reference", "stream", "training"),
        ("model", "run"),
    ),
    "top": (
        ("", "torch", "sklearn", "comparison", "bench", "cli", "__pyinstaller"),
        ("ground", "model", "formats", "engines", "run", "classes"),
    ),
}
COMPILED = ("_blas", "_exclusive", "_packed", "_program", "_threads", "_training")
"""Any room may import these, which import the ground and the model."""


def modules(folder):
    """Every module's name without the package's, and its path; the package itself is ""."""
    package = folder / "cgru"
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(node, known):
    """The modules that a syntax tree imports, by name without the package's."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.orelse:
            yield from imported(child, known)
        return
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        for alias in node.names:
            inside = f"{node.module}.{alias.name}"
            names.append(inside if inside.partition(".")[2] in {*known, *COMPILED} else node.module)
    for name in names:
        package, _, rest = name.partition(".")
        if package == "cgru":
            yield rest
    for child in ast.iter_child_nodes(node):
        yield from imported(child, known)


def room_of(module):
    first = module.partition(".")[0]
    return next((room for room, (files, _) in ROOMS.items() if first in files), None)


def circles(graph):
    """Sets of modules that import each other, by Tarjan's strongly connected components."""
    index, low, stack, found = {}, {}, [], []

    def visit(module):
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            part = stack[stack.index(module) :]
            del stack[-len(part) :]
            if len(part) > 1:
                found.append(part)

    for module in graph:
        if module not in index:
            visit(module)
    return found


def complaints(folder):
    """What is wrong with a package, a line each."""
    known = modules(folder)
    graph = {}
    for module, path in known.items():
        found = set(imported(ast.parse(path.read_text()), known))
        graph[module] = sorted(found & set(known) - {module})
        room = room_of(module)
        if room is None:
            yield f"{path}: in no room of {Path(__file__).name}"
            continue
        for other in sorted(found - {module}):
            below = room_of(other)
            if other not in COMPILED and below != room and below not in ROOMS[room][1]:
                yield f"{path}: {room} imports cgru.{other} of {below}"
    for circle in circles(graph):
        yield f"a circle of imports: {', '.join(f'cgru.{module}'.rstrip('.') for module in sorted(circle))}"


def main():
    """Print the complaints; the number of the exit status."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    found = list(complaints(folder))
    print("\n".join(found) or "imports run downward, without circles")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
