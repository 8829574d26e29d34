"""The models in memory: each is loaded once, within a budget, and is never removed from a request
that uses it.

All state belongs to the event loop's thread; only the reading of archives and `Predictor.load` run
in threads. No step between two awaits can therefore interleave with another, and there are no
locks.
"""

import asyncio
import bisect
import json
import logging
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic

from containers.runtime.archives.archive import (
    ArchiveLimits,
    RefusedArchiveError,
    check_folder,
    extract_archive,
)
from containers.runtime.serving.predictor import InvalidModelError, ModelT, Predictor
from containers.runtime.serving.serving_errors import (
    AlreadyLoadedError,
    NotFoundError,
    OutOfMemoryError,
    RefusedModelError,
    ServingError,
)
from contracts import patterns
from contracts.limits import CARD_BYTES
from contracts.logs import log_fields
from contracts.trace_context import TRACE_ID

PAGE: Final = 100

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Loaded(Generic[ModelT]):
    """A model in memory, of `size` bytes, with the number of requests that use it.

    `known` holds the card's fields for lines of the log.
    """

    name: str
    url: str
    model: ModelT
    size: int
    known: Mapping[str, str] = field(default_factory=dict)
    users: int = 0
    idle: asyncio.Future[None] | None = None


@dataclass
class Counters:
    """Counts since the server started."""

    loads: int = 0
    load_failures: int = 0
    evictions: int = 0
    unloads: int = 0


class ModelStore(Generic[ModelT]):
    """Models by name, at most `budget` bytes of them.

    With `evict`, a load that does not fit evicts the least recently used models that no request
    uses. Without it, the load raises `OutOfMemoryError`, and SageMaker chooses the models to
    unload. `fetch` provides the folder or archive file of a model's URL while the model is read;
    without it, the URL is a path.
    """

    def __init__(
        self,
        predictor: Predictor[ModelT],
        budget: int,
        loaders: Executor,
        *,
        evict: bool = False,
        limits: ArchiveLimits | None = None,
        fetch: Callable[[str], AbstractContextManager[Path]] | None = None,
    ) -> None:
        self._predictor = predictor
        self._free: Callable[[ModelT], None] | None = getattr(predictor, "unload", None)
        self._limits = limits or ArchiveLimits()
        self._fetch = fetch or (lambda url: nullcontext(Path(url)))
        self._loaders = loaders
        self._evict = evict
        self.budget = budget
        self.used = 0
        self.counters = Counters()
        # In order of last use, the least recent first.
        self._loaded: OrderedDict[str, Loaded[ModelT]] = OrderedDict()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._unloading: dict[str, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._loaded)

    def acquire(self, name: str) -> Loaded[ModelT]:
        """The model of that name; return it with `release`. Raises `NotFoundError` when it is not
        loaded."""
        entry = self._loaded.get(name)
        if entry is None:
            raise NotFoundError(f"model {name!r} is not loaded", "model_name")
        self._loaded.move_to_end(name)
        entry.users += 1
        return entry

    def release(self, entry: Loaded[ModelT]) -> None:
        """End a request's use of its model."""
        entry.users -= 1
        if entry.users == 0 and entry.idle is not None and not entry.idle.done():
            entry.idle.set_result(None)

    async def load(self, name: str, url: str) -> None:
        """Load the model at `url`.

        Raises `AlreadyLoadedError` when the model is loaded, also for a caller that asked during
        the load. Raises `RefusedModelError` when the files are not a model, and `OutOfMemoryError`
        when it does not fit.
        """
        if name in self._loaded:
            raise AlreadyLoadedError(f"model {name!r} is loaded already", "model_name")
        first = name not in self._loading
        await self._load_once(name, url)
        if not first:
            raise AlreadyLoadedError(f"model {name!r} is loaded already", "model_name")

    async def acquire_or_load(self, name: str, url: str) -> Loaded[ModelT]:
        """The model of that name, loaded if necessary; return it with `release`."""
        while name not in self._loaded:
            await self._load_once(name, url)
        return self.acquire(name)

    async def _load_once(self, name: str, url: str) -> None:
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(name, url))
            task.add_done_callback(lambda _: self._loading.pop(name, None))
        # The shield keeps the load running for other waiting clients when one client disconnects.
        await asyncio.shield(task)

    async def _load(self, name: str, url: str) -> None:
        if (unloading := self._unloading.get(name)) is not None:
            await unloading
        started = time.monotonic()
        try:
            model, size, known = await asyncio.get_running_loop().run_in_executor(
                self._loaders, self._fetch_and_read, url
            )
            self._make_room(name, size)
        except ServingError as error:
            self.counters.load_failures += 1
            _log.warning("model_not_loaded model=%r: %s", name, error.message)
            raise
        self._loaded[name] = Loaded(name, url, model, size, known)
        self.used += size
        self.counters.loads += 1
        with log_fields(**known):
            _log.info(
                "model_loaded model=%r bytes=%d ms=%.1f",
                name,
                size,
                1000 * (time.monotonic() - started),
            )

    def _fetch_and_read(self, url: str) -> tuple[ModelT, int, Mapping[str, str]]:
        """Read a model from its URL; runs in a thread."""
        with self._fetch(url) as path:
            return self._read(path)

    def _read(self, path: Path) -> tuple[ModelT, int, Mapping[str, str]]:
        """Read a model from a folder or an archive file; runs in a thread."""
        try:
            if path.is_file():
                folder = Path(tempfile.mkdtemp(prefix="model-"))
                try:
                    extract_archive(path, folder, self._limits)
                    model, known = self._predictor.load(folder), _known_of(folder)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
            else:
                check_folder(path, self._limits)
                model, known = self._predictor.load(path), _known_of(path)
        except (RefusedArchiveError, InvalidModelError) as error:
            raise RefusedModelError(str(error), reason=getattr(error, "reason", None)) from error
        except MemoryError as error:
            raise OutOfMemoryError("the machine had no memory to load the model") from error
        except Exception as error:
            # A family's error on strange files must not look like an error of the server.
            _log.exception("load_raised path=%s", path)
            raise RefusedModelError(f"the model cannot be read: {type(error).__name__}") from error
        return model, self._predictor.size(model), known

    def _make_room(self, name: str, size: int) -> None:
        if size > self.budget:
            raise OutOfMemoryError(
                f"model {name!r} takes {size} bytes; the server has {self.budget} for all models"
            )
        while self._evict and self.used + size > self.budget:
            victim = next((entry for entry in self._loaded.values() if entry.users == 0), None)
            if victim is None:
                break
            del self._loaded[victim.name]
            self._forget(victim)
            self.counters.evictions += 1
            _log.info("model_evicted model=%r bytes=%d", victim.name, victim.size)
        if self.used + size > self.budget:
            raise OutOfMemoryError(
                f"model {name!r} takes {size} bytes; {self.budget - self.used} of {self.budget} "
                f"are free"
            )

    async def unload(self, name: str) -> None:
        """Remove a model from memory once no request uses it. Raises `NotFoundError` when it is not
        loaded.

        New requests do not find the model from this call on.
        """
        if (unloading := self._unloading.get(name)) is not None:
            await asyncio.shield(unloading)
            return
        entry = self._loaded.pop(name, None)
        if entry is None:
            raise NotFoundError(f"model {name!r} is not loaded", "model_name")
        done = asyncio.get_running_loop().create_future()
        self._unloading[name] = done
        try:
            if entry.users > 0:
                entry.idle = asyncio.get_running_loop().create_future()
                await entry.idle
        finally:
            self._forget(entry)
            self.counters.unloads += 1
            del self._unloading[name]
            done.set_result(None)
        _log.info("model_unloaded model=%r bytes=%d", name, entry.size)

    def _forget(self, entry: Loaded[ModelT]) -> None:
        self.used -= entry.size
        if self._free is not None:
            self._free(entry.model)

    def page(self, after: str | None) -> tuple[list[tuple[str, str]], str | None]:
        """A hundred models as (name, url), in order of name after `after`, and the name to continue
        from, if any."""
        names = sorted(self._loaded)
        start = 0 if after is None else bisect.bisect_right(names, after)
        page = names[start : start + PAGE]
        more = start + PAGE < len(names)
        return [(name, self._loaded[name].url) for name in page], page[-1] if more else None

    def url_of(self, name: str) -> str:
        """The URL that the model was loaded from. Raises `NotFoundError` when it is not loaded."""
        entry = self._loaded.get(name)
        if entry is None:
            raise NotFoundError(f"model {name!r} is not loaded", "model_name")
        return entry.url

    def status(self) -> dict[str, Any]:
        """Figures for people."""
        return {
            "models": len(self._loaded),
            "loading": len(self._loading),
            "in_use": sum(1 for entry in self._loaded.values() if entry.users),
            "memory": {"used_bytes": self.used, "budget_bytes": self.budget},
            "evict": "lru" if self._evict else "none",
            **vars(self.counters),
        }


_IN_A_CARD: Final = {"workload": patterns.WORKLOAD, "tenant": patterns.TENANT, "trace_id": TRACE_ID}


def _known_of(folder: Path) -> Mapping[str, str]:
    """The fields of an extracted archive's card for lines of the log; empty without a card."""
    try:
        with (folder / "card.json").open("rb") as file:
            card = json.loads(file.read(CARD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(card, dict):
        return {}
    said = ((name, str(card.get(name, "")), pattern) for name, pattern in _IN_A_CARD.items())
    return {name: value for name, value, pattern in said if pattern.fullmatch(value)}
