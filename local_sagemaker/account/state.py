"""The emulator's state across restarts: one JSON document per resource, in SQLite under the state
folder."""

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

Document = dict[str, Any]


class Store:
    """Resources by kind and name, read from memory and written to SQLite at once.

    Only one process may use a state folder at a time; the open store holds a lock file. Raises
    RuntimeError when another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder / "lock")
        self._database = sqlite3.connect(folder / "resources.sqlite", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS resources"
            " (kind TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (kind, "
            "name))"
        )
        self._resources: dict[str, dict[str, Document]] = {}
        for kind, name, document in self._database.execute(
            "SELECT kind, name, document FROM resources ORDER BY rowid"
        ):
            self._resources.setdefault(kind, {})[name] = json.loads(document)

    def get(self, kind: str, name: str) -> Document | None:
        """The document, or None. A caller that changes it writes it back with `put`."""
        return self._resources.get(kind, {}).get(name)

    def all(self, kind: str) -> Iterator[tuple[str, Document]]:
        """Every name and document of a kind, oldest first, as they are now."""
        yield from list(self._resources.get(kind, {}).items())

    def put(self, kind: str, name: str, document: Document) -> None:
        """Store `document`; it is on disk when this returns."""
        self._resources.setdefault(kind, {})[name] = document
        self._database.execute(
            "INSERT INTO resources (kind, name, document) VALUES (?, ?, ?)"
            " ON CONFLICT (kind, name) DO UPDATE SET document = excluded.document",
            (kind, name, json.dumps(document)),
        )

    def delete(self, kind: str, name: str) -> None:
        """Forget one resource, if it exists."""
        self._resources.get(kind, {}).pop(name, None)
        self._database.execute("DELETE FROM resources WHERE kind = ? AND name = ?", (kind, name))

    def clear(self) -> None:
        """Forget everything."""
        self._resources.clear()
        self._database.execute("DELETE FROM resources")

    def close(self) -> None:
        """Close the database and release the folder."""
        self._database.close()
        self._lock.close()


def _lock(path: Path) -> IO[str]:
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise RuntimeError(
            f"{path.parent} is in use by another local_sagemaker; give --state another folder"
        ) from error
    return handle
