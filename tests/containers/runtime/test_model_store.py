"""The model store under any sequence of loads, requests and unloads: it never exceeds its budget
and never removes a model in use."""

import asyncio
import json
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from containers.runtime.serving.model_store import Loaded, ModelStore
from containers.runtime.serving.serving_errors import (
    AlreadyLoadedError,
    NotFoundError,
    OutOfMemoryError,
    RefusedModelError,
)
from tests.containers.runtime.tiny_family import TinyModel, TinyPredictor

BUDGET = 100
NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
ResultT = TypeVar("ResultT")


class RecordingPredictor(TinyPredictor):
    """Records the models that it had to unload."""

    def __init__(self) -> None:
        self.gone: list[TinyModel] = []

    def unload(self, model: TinyModel) -> None:
        # Compare by identity, because two loads of one archive are two models in memory.
        assert not any(model is gone for gone in self.gone)
        self.gone.append(model)


class StoreMachine(RuleBasedStateMachine):
    """A store beside a description of its expected content."""

    evict = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.threads = ThreadPoolExecutor(2)
        self.folder = Path(tempfile.mkdtemp(prefix="store-"))
        self.predictor = RecordingPredictor()
        self.store: ModelStore[TinyModel] = ModelStore(
            self.predictor, BUDGET, self.threads, evict=self.evict
        )
        # name to size, the least recently used first
        self.held: OrderedDict[str, int] = OrderedDict()
        self.users: list[tuple[Loaded[TinyModel], str]] = []
        self.unloading: dict[str, tuple[asyncio.Task[None], int, list[Loaded[TinyModel]]]] = {}

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def url(self, size: int) -> str:
        folder = self.folder / str(size)
        if not folder.exists():
            folder.mkdir()
            (folder / "model.json").write_text(json.dumps({"mean": float(size), "size": size}))
        return str(folder)

    def used(self) -> int:
        return sum(self.held.values()) + sum(size for _, size, _ in self.unloading.values())

    def expect_load(self, name: str, size: int) -> type[Exception] | None:
        """The expected result of a load; models that it must evict are removed from `held`."""
        if size > BUDGET:
            return OutOfMemoryError
        in_use = {used for _, used in self.users}
        while self.evict and self.used() + size > BUDGET:
            victim = next((held for held in self.held if held not in in_use), None)
            if victim is None:
                break
            del self.held[victim]
        if self.used() + size > BUDGET:
            return OutOfMemoryError
        self.held[name] = size
        return None

    async def attempt(self, work: Coroutine[Any, Any, None]) -> type[Exception] | None:
        try:
            await work
        except (AlreadyLoadedError, NotFoundError, OutOfMemoryError, RefusedModelError) as error:
            return type(error)
        return None

    @rule(name=NAMES, size=st.integers(15, 60) | st.just(BUDGET + 1))
    def load(self, name: str, size: int) -> None:
        if name in self.unloading:
            return
        expected = AlreadyLoadedError if name in self.held else self.expect_load(name, size)
        assert self.run(self.attempt(self.store.load(name, self.url(size)))) is expected

    @rule(name=NAMES, size=st.integers(15, 60))
    def load_at_once_from_several_sides(self, name: str, size: int) -> None:
        if name in self.unloading:
            return
        loads = self.store.counters.loads
        expected = AlreadyLoadedError if name in self.held else self.expect_load(name, size)

        async def together() -> list[type[Exception] | None]:
            return await asyncio.gather(
                *(self.attempt(self.store.load(name, self.url(size))) for _ in range(3))
            )

        outcomes = self.run(together())
        if expected is None:
            assert sorted(outcomes, key=str) == sorted(
                [None, AlreadyLoadedError, AlreadyLoadedError], key=str
            )
        else:
            assert outcomes == [expected] * 3
        assert self.store.counters.loads == loads + (expected is None)

    @rule(name=NAMES)
    def load_what_is_no_model(self, name: str) -> None:
        if name in self.unloading or name in self.held:
            return
        (self.folder / "empty").mkdir(exist_ok=True)
        assert (
            self.run(self.attempt(self.store.load(name, str(self.folder / "empty"))))
            is RefusedModelError
        )

    @rule(name=NAMES)
    def begin_a_request(self, name: str) -> None:
        if name not in self.held:
            try:
                self.store.acquire(name)
            except NotFoundError:
                return
            raise AssertionError(f"{name} was found")
        entry = self.store.acquire(name)
        assert entry.model.size == self.held[name]
        self.held.move_to_end(name)
        self.users.append((entry, name))

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def end_a_request(self, data: st.DataObject) -> None:
        entry, name = self.users.pop(data.draw(st.integers(0, len(self.users) - 1)))
        assert not any(entry.model is gone for gone in self.predictor.gone)
        self.store.release(entry)
        for unloaded, (task, _, waiting) in list(self.unloading.items()):
            if entry in waiting:
                waiting.remove(entry)
                if not waiting:
                    self.run(asyncio.wait_for(asyncio.shield(task), 10))
                    del self.unloading[unloaded]
        assert name not in self.unloading or self.unloading[name][2]

    @rule(name=NAMES)
    def unload(self, name: str) -> None:
        if name in self.unloading:
            return
        if name not in self.held:
            assert self.run(self.attempt(self.store.unload(name))) is NotFoundError
            return
        size = self.held.pop(name)
        waiting = [entry for entry, used in self.users if used == name and self.is_current(entry)]
        task = self.loop.create_task(self.store.unload(name))
        self.run(asyncio.sleep(0))
        if waiting:
            assert not task.done()
            self.unloading[name] = (task, size, waiting)
        else:
            self.run(asyncio.wait_for(asyncio.shield(task), 10))

    def is_current(self, entry: Loaded[TinyModel]) -> bool:
        return not any(entry in waiting for _, _, waiting in self.unloading.values())

    @invariant()
    def memory_is_what_is_held_and_within_the_budget(self) -> None:
        assert self.store.used == self.used() <= BUDGET

    @invariant()
    def the_list_is_what_is_held(self) -> None:
        page, token = self.store.page(None)
        assert [name for name, _ in page] == sorted(self.held)
        assert token is None

    @invariant()
    def no_model_in_use_was_let_go(self) -> None:
        for entry, _ in self.users:
            assert not any(entry.model is gone for gone in self.predictor.gone)

    def teardown(self) -> None:
        while self.users:
            entry, _ = self.users.pop()
            self.store.release(entry)
        self.run(asyncio.sleep(0))
        for task, _, _ in self.unloading.values():
            self.run(asyncio.wait_for(asyncio.shield(task), 10))
        self.threads.shutdown()
        self.loop.close()
        shutil.rmtree(self.folder)


class EvictingStoreMachine(StoreMachine):
    """The same for a store that evicts models itself."""

    evict = True


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestEvictingStore = EvictingStoreMachine.TestCase
TestEvictingStore.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_models_are_listed_in_pages_of_a_hundred_in_order(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"mean": 1, "size": 1}')
    names = [f"m{number:03}" for number in range(250)]

    async def work() -> list[list[str]]:
        with ThreadPoolExecutor(2) as threads:
            store: ModelStore[TinyModel] = ModelStore(TinyPredictor(), 1000, threads)
            for name in reversed(names):
                await store.load(name, str(tmp_path))
            pages, token = [], None
            while True:
                page, token = store.page(token)
                pages.append([name for name, _ in page])
                if token is None:
                    return pages

    pages = asyncio.run(work())
    assert [len(page) for page in pages] == [100, 100, 50]
    assert [name for page in pages for name in page] == names
