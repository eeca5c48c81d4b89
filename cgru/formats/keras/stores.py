"""Where Keras' files have the weights of a layer: by its place in the model, or by its name."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from cgru.errors import FormatError
from cgru.formats.keras import legacy
from cgru.formats.keras.model import WEIGHTS

if TYPE_CHECKING:
    from typing import Any

    from cgru.formats.keras.hdf5 import Object
    from cgru.formats.keras.tree import Found
    from cgru.types import Array

DEPENDENCIES = "_layer_checkpoint_dependencies"
"""What Keras 2.13 to 2.15 call the group "layers"."""


class ByPlace:
    """Weights in the layout of Keras 3: groups named by a layer's class and number, arrays by their own."""

    reset_after: bool | None = None

    def __init__(self, root: Object, version: int) -> None:
        self.root, self.version = root, version

    def arrays(self, found: Found, directions: int) -> list[list[Array]]:
        """Those under the layer's keys."""
        sides = [[]] if directions == 1 else [["forward_layer"], ["backward_layer"]]
        renamed = DEPENDENCIES in self.root.members()
        keys = [DEPENDENCIES if key == "layers" and renamed else key for key in found.keys]
        result = []
        for side in sides:
            path = [*keys, *side, *found.inner]
            group = self.root.child(*path)
            if group is None:
                raise FormatError(f"{found.name}: expected weights in {'/'.join(path)}, got none{elsewhere(self.root)}")
            result.append([_array(group, str(number)) for number in range(len(group.members()))])
        return result

    def own(self, layer: Any) -> list[Array]:
        """All arrays of a layer that is not recurrent, in Keras' order."""
        renamed = DEPENDENCIES in self.root.members()
        keys = [DEPENDENCIES if key == "layers" and renamed else key for key in layer.keys]
        group = self.root.child(*keys, "vars")
        return [] if group is None else [_array(group, str(number)) for number in range(len(group.members()))]


class ByName:
    """Weights in the layout of Keras 1 and 2: a group a layer of the outermost model, which lists its arrays' names."""

    def __init__(self, root: Object | None, version: int, whole: bool) -> None:
        self.root, self.version = root, version
        self.reset_after: bool | None = False if whole and version < 3 else None
        """Configurations that do not say are older than the option, unless they were made by hand."""
        self.paths: dict[str, dict[str | None, list[list[str]]]] = {}

    def arrays(self, found: Found, directions: int) -> list[list[Array]]:
        """Those that the group of the outermost layer lists, of the layer's name where that is another one."""
        names = found.names[:-1] if found.cell else found.names
        group = None if self.root is None else self.root.child(names[0])
        if group is None:
            raise FormatError(f"{found.name}: expected a group of weights of its name, got none")
        known = self._paths(names[0], group)
        paths = known.get(names[-1] if len(names) > 1 else None) or known[None]
        k, cells = found.cell or (0, 1)
        count, over = divmod(len(paths), cells * directions)
        fields = [legacy.parts(path[-1])[1] if self.version < 2 else path[-1].split(":")[0] for path in paths]
        if over or not _complete(fields, count):
            got = ["/".join(path) for path in paths]
            expected = ", ".join(legacy.WHOLE if self.version < 2 else WEIGHTS)
            raise FormatError(f"{found.name}: expected {expected} a direction, got {got}")
        result = []
        for start in range(k * directions * count, (k + 1) * directions * count, count):
            arrays = [_array(group, *path) for path in paths[start : start + count]]
            result.append(legacy.joined(found.name, arrays) if count == len(legacy.GATES) else arrays)
        return result

    def own(self, layer: Any) -> list[Array]:
        """All arrays of a layer that is not recurrent, in Keras' order."""
        group = None if self.root is None else self.root.child(layer.names[0])
        if group is None:
            return []
        known = self._paths(layer.names[0], group)
        paths = known.get(layer.names[-1], []) if len(layer.names) > 1 else known[None]
        return [_array(group, *path) for path in paths]

    def _paths(self, name: str, group: Object) -> dict[str | None, list[list[str]]]:
        """The paths of a group's arrays: under None all of them, under a part's name those with that part."""
        if name not in self.paths:
            paths: dict[str | None, list[list[str]]] = {None: []}
            for listed in _listed(group, "weight_names"):
                path = listed.split("/")
                owner = legacy.parts(path[-1])[0] if self.version < 2 else path[0]
                for part in (None, *dict.fromkeys([*path, owner])):
                    paths.setdefault(part, []).append(path)
            self.paths[name] = paths
        return self.paths[name]


def _complete(fields: list[str], count: int) -> bool:
    """Whether these are a GRU's arrays, so many a direction, again and again."""
    kinds = [WEIGHTS[:2], WEIGHTS, legacy.WHOLE, legacy.GATES]
    return any(count == len(kind) and fields == [*kind] * (len(fields) // count) for kind in kinds)


def by_name(root: Object) -> bool:
    """Whether a file of weights alone is in the layout of Keras 1 and 2."""
    return bool(_listed(root, "layer_names"))


def _array(group: Object, *path: str) -> Array:
    child = group.child(*path)
    if child is None:
        raise FormatError(f"{'/'.join((*group.where.keys, *path))}: expected an array, got nothing")
    return child.array()


def _listed(group: Object, attribute: str) -> list[str]:
    """A list attribute, which Keras splits into parts numbered from 0 where it is long."""
    whole = group.attribute(attribute)
    if whole is not None:
        return list(whole)
    parts: list[str] = []
    for number in itertools.count():
        part = group.attribute(f"{attribute}{number}")
        if part is None:
            break
        parts += part
    return parts


def places(root: Object, inside: tuple[str, ...], units: int | None = None) -> list[tuple[str, tuple[str, ...]]]:
    """In a file of Keras 3's layout the groups of GRUs of so many units, or of any: a layer's name, and the way there.

    `inside` leads from a layer's group to its recurrent kernel.
    """
    found = []
    seen = set()  # groups may lie within each other
    waiting = [root]
    for group in waiting:
        if group.address in seen:
            continue
        seen.add(group.address)
        recurrent, own = group.child(*inside), group.child("vars")
        if recurrent is None:
            waiting += filter(None, map(group.child, group.members()))
            continue
        shape = recurrent.shape
        if shape and shape == (units or shape[0], 3 * (units or shape[0])):
            keys = group.where.keys
            found.append(((own and own.attribute("name")) or keys[-1], keys))
    return found


def elsewhere(root: Object) -> str:
    """What to say where the configuration does not lead to weights that a file has; nothing where it has none."""
    found = places(root, ("cell", "vars", "1"))
    if not found:
        return ""
    listed = ", ".join("/".join(keys) or "its root" for _, keys in found[:20])
    return (
        f"; the file has weights like a GRU's in {listed}: give config= the layer's get_config(), and name= one of "
        "these if there are several"
    )
