"""Whether the code that a workload names is there. It is looked up where Python would import it
from, but never imported: its imports may read strangers' files."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

_ROOT: Final = "containers"


def container_fault(name: str) -> str | None:
    """The fault in a container's name, and the cure; None where its folder is there."""
    folders = _folders(_ROOT)
    if folders is None or any((folder / name).is_dir() for folder in folders):
        return None
    there = sorted({one.name for folder in folders for one in folder.iterdir() if _family(one)})
    return (
        f"there is no folder {_ROOT}/{name}; make it, or name one that is there: {', '.join(there)}"
    )


def container_file(container: str, name: str) -> Path | None:
    """A file in a container's folder; None where there is none."""
    found = [folder / container / name for folder in _folders(_ROOT) or []]
    return next((path for path in found if path.is_file()), None)


def defines(container: str, function: str) -> bool:
    """Whether a module in a container's folder defines a function or a method of that name; True
    where there is no such folder to look in."""
    folders = [folder / container for folder in _folders(_ROOT) or []]
    folders = [folder for folder in folders if folder.is_dir()]
    definition = re.compile(rf"^\s*def {function}\b", re.MULTILINE)
    files = [file for folder in folders for file in (*folder.rglob("*.py"), folder / "serve")]
    return not folders or any(
        definition.search(file.read_text(encoding="utf-8", errors="replace"))
        for file in files
        if file.is_file()
    )


def module_file(name: str) -> Path | None:
    """The file of a module, which is not imported; None where it is not there."""
    root, *parts = name.split(".")
    folders, known, origin = _folders(root) or [], root, None
    for part in parts:
        known = f"{known}.{part}"
        spec = PathFinder.find_spec(known, [str(folder) for folder in folders])
        if spec is None:
            return None
        folders = [Path(place) for place in spec.submodule_search_locations or ()]
        origin = spec.origin
    return None if origin is None else Path(origin)


def module_fault(name: str) -> str | None:
    """The fault in a module's name, and the cure; None where the module is there."""
    root, *parts = name.split(".")
    folders = _folders(root)
    if folders is None:
        return None
    known = root
    for number, part in enumerate(parts, 1):
        spec = PathFinder.find_spec(f"{known}.{part}", [str(folder) for folder in folders])
        if spec is None:
            there = {one.stem for folder in folders for one in folder.iterdir() if _importable(one)}
            close = get_close_matches(part, there, n=1)
            cure = f"; did you mean {known}.{close[0]}?" if close else ""
            return f"there is no module {known}.{part}{cure or '; make it, or name another'}"
        known = f"{known}.{part}"
        last = number == len(parts)
        if last and spec.origin is None:
            return f"{known} is a folder without __init__.py; name a module in it"
        folders = [Path(place) for place in spec.submodule_search_locations or ()]
    return None


def _folders(package: str) -> list[Path] | None:
    """The folders of a top-level package; None where it is not installed, so that nothing can be
    checked."""
    spec = PathFinder.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return None
    return [Path(place) for place in spec.submodule_search_locations if Path(place).is_dir()]


def _family(path: Path) -> bool:
    return path.is_dir() and path.name != "runtime" and not path.name.startswith(("_", "."))


def _importable(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and not path.name.startswith(("_", ".")))
