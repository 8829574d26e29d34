"""How quickly tenants' models load, and how quickly the engine draws many tenants' pictures."""

import asyncio
import gc
import itertools
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import torch

from benchmarks.diffusion_base import (
    Bench,
    alternated,
    drawn,
    median,
    percentile,
    read_tenant,
    write_tenants,
)
from containers.diffusion.adapters.adapter import Adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.adapters.weights_file import WEIGHTS_FILE
from containers.diffusion.base.pipeline import DTYPES, Base
from containers.diffusion.serving.admission import FairQueue
from containers.diffusion.serving.engine import Engine, Job
from containers.diffusion.serving.predictor import DiffusionPredictor
from containers.diffusion.serving.request import Drawing
from containers.runtime.archives.archive import extract_archive
from containers.runtime.serving.model_store import ModelStore

TOGETHER: Final = 8
"""Tenants of the mixed batch."""

ADAPTERS_TO_A_PIPELINE: Final = 4
"""Loads of adapters between two loads of the pipeline."""

CROWD: Final = 32
"""Tenants of the open loop, asked for by Zipf's law with this exponent."""
ZIPF: Final = 1.3


def cold(bench: Bench) -> dict[str, Any]:
    """Loading a tenant's model from its archive into its slot, beside loading a tenant's own
    pipeline from disk.

    The adapter's time includes all steps after the archive file: extracting, checking, and copying
    into a slot, which replaces another tenant's once all are in use. The pipeline's time starts
    with extracted files. Both lie in the page cache.
    """
    from diffusers import StableDiffusionPipeline

    base = bench.load()
    layers = bench.layers(base)
    tiny = bench.size == "tiny"
    archives = write_tenants(bench, base, layers, bench.count(100 if tiny else 24, 4))
    bank = bench.engine(base, layers).bank
    shapes = layers.shapes()

    def load_adapter(archive: Path) -> tuple[float, float]:
        began = time.perf_counter()
        read = read_tenant(bench, base, shapes, archive)
        in_host_memory = time.perf_counter()
        bank.pin(read)
        bench.synchronise()
        ended = time.perf_counter()
        bank.unpin(read)
        return 1000 * (ended - began), 1000 * (ended - in_host_memory)

    def load_pipeline() -> float:
        began = time.perf_counter()
        loaded: Any = StableDiffusionPipeline.from_pretrained(
            bench.pipeline,
            dtype=DTYPES[bench.dtype],
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
        loaded.to(bench.device)
        bench.synchronise()
        return 1000 * (time.perf_counter() - began)

    load_pipeline()
    load_adapter(archives[0])
    next_archive = itertools.cycle(archives)
    adapters: list[float] = []
    refills: list[float] = []
    pipelines: list[float] = []
    speedups: list[float] = []
    for _ in range(bench.count(40 if tiny else 8, 2)):
        pipelines.append(load_pipeline())
        gc.collect()
        times = [load_adapter(next(next_archive)) for _ in range(ADAPTERS_TO_A_PIPELINE)]
        adapters += [whole for whole, _ in times]
        refills += [refill for _, refill in times]
        speedups.append(pipelines[-1] / float(np.median(adapters[-ADAPTERS_TO_A_PIPELINE:])))
    layers.remove()
    modules = [
        module
        for module in base.pipeline.components.values()
        if isinstance(module, torch.nn.Module)
    ]
    numbers = sum(parameter.numel() for module in modules for parameter in module.parameters())
    shipped = sum(path.stat().st_size for path in bench.pipeline.rglob("*") if path.is_file())
    each = float(np.mean([archive.stat().st_size for archive in archives]))
    return {
        "cold_speedup": median(speedups, 1),
        "cold_p50_ms": median(adapters, 2),
        "cold_p99_ms": percentile(adapters, 99, 2),
        "cold_from_host_memory_p50_ms": median(refills, 2),
        "pipeline_p50_ms": median(pipelines, 1),
        "pipeline_p99_ms": percentile(pipelines, 99, 1),
        # First, half precision on both sides, as base and adapters are shipped. Then the pipeline
        # in single precision, as diffusers' training scripts save it.
        "bytes_ratio": round(shipped / each, 1),
        "bytes_ratio_of_fp32_pipeline": round((shipped + 2 * numbers) / each, 1),
        "adapter_bytes": round(each),
        "pipeline_bytes": shipped,
        "adapter_rank": bench.training.rank,
        "adapter_targets": bench.training.targets,
        "cold_loads": len(adapters),
        "pipeline_loads": len(pipelines),
    }


def switch(bench: Bench) -> dict[str, Any]:
    """The cost of a generation after another tenant's, with both adapters in their slots.

    It measures pairs of generations of one step, one after the same tenant's and one after
    another's, in random order. One step suffices, because a switch costs the same with any number
    of steps. The report gives the extra time relative to a generation with the server's default
    steps.
    """
    base = bench.load()
    layers = bench.layers(base)
    adapters = _adapters(bench, base, layers, bench.count(8, 2))
    engine = bench.engine(base, layers)
    turn = random.Random(0)
    short = replace(bench.drawing(0), steps=1)
    for resident in adapters:
        drawn(engine, [(resident, short)])
    whole = [
        _timed(lambda: drawn(engine, [(adapters[0], bench.drawing(0))]))
        for _ in range(bench.count(15, 1))
    ]
    same: list[float] = []
    changed: list[float] = []
    current = 0
    for _ in range(bench.count(300 if bench.size == "tiny" else 50, 2)):
        for stays in turn.sample((True, False), 2):
            if not stays:
                current = (current + 1) % len(adapters)
            # The lambda is called at once.
            seconds = _timed(lambda: drawn(engine, [(adapters[current], short)]))  # noqa: B023
            (same if stays else changed).append(seconds)
    extra = float(np.median(np.subtract(changed, same)))
    return {
        "switch_share": round(extra / float(np.median(whole)), 5),
        "switch_extra_ms": round(1000 * extra, 3),
        "generation_ms": round(1000 * float(np.median(whole)), 1),
        "generation_steps": bench.serving.steps,
        "switches": len(changed),
    }


def memory(bench: Bench) -> dict[str, Any]:
    """A thousand tenants in turn through the server's model store and predictor: the resident
    memory of a separate process.

    The store has room for a fifth of them and the bank for fewer, so both are full, and evict, long
    before the end.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_round_robin, bench).result()


def _round_robin(bench: Bench) -> dict[str, Any]:
    base = bench.load()
    # Many tenants may share a file, because each has its own model in memory.
    archives = write_tenants(
        bench,
        base,
        bench.layers(base),
        bench.count(64, 4) if bench.size == "tiny" else bench.count(8, 2),
    )
    del base
    tenants = bench.count(1000, 10)
    served = replace(
        bench.serving,
        device=bench.device,
        dtype=bench.dtype,
        slots=min(bench.serving.slots, tenants // 10),
    )
    predictor = DiffusionPredictor(lambda: served)
    predictor.start()
    try:
        return asyncio.run(_serve_in_turn(bench, predictor, archives, tenants))
    finally:
        predictor.close()


async def _serve_in_turn(
    bench: Bench, predictor: DiffusionPredictor, archives: Sequence[Path], tenants: int
) -> dict[str, Any]:
    body = json.dumps(
        {
            "prompt": "a star",
            "steps": 1,
            "guidance": 1,
            "width": bench.pixels,
            "height": bench.pixels,
        }
    )
    room = tenants // 5
    with ThreadPoolExecutor(1) as loaders:
        folder = bench.scratch / "size"
        folder.mkdir()
        extract_archive(archives[0], folder)
        each = predictor.size(predictor.load(folder))
        store = ModelStore(predictor, room * each, loaders, evict=True)
        resident = [_resident_mib()]
        began = time.perf_counter()
        rounds = 2
        for number in range(rounds * tenants):
            name = f"tenant-{number % tenants:04}"
            entry = await store.acquire_or_load(name, str(archives[number % len(archives)]))
            try:
                await predictor.predict(entry.model, body.encode(), "application/json", "image/png")
            finally:
                store.release(entry)
            if (number + 1) % room == 0:
                resident.append(_resident_mib())
        seconds = time.perf_counter() - began
    status = predictor.status()
    return {
        "round_robin_tenants": tenants,
        "round_robin_requests": rounds * tenants,
        "round_robin_slots": status["slots"]["of"],
        "round_robin_models_in_store": len(store),
        "round_robin_cold_loads": store.counters.loads,
        "round_robin_bank_evictions": status["slots"]["evictions"],
        "round_robin_requests_per_second": round(rounds * tenants / seconds, 1),
        "rss_start_mib": resident[0],
        "rss_full_mib": resident[1],
        "rss_highest_after_full_mib": max(resident[2:]),
        "rss_end_mib": resident[-1],
    }


def mixed(bench: Bench) -> dict[str, Any]:
    """One batch of eight tenants' pictures, beside eight pictures of one tenant whose adapter is
    fused into the weights.

    diffusers' own ``fuse_lora`` makes the fused weights from the same file, and that UNet has no
    adapter layers. Both are also drawn one after another.
    """
    base = bench.load()
    layers = bench.layers(base)
    archives = write_tenants(bench, base, layers, TOGETHER)
    adapters = [read_tenant(bench, base, layers.shapes(), archive) for archive in archives]
    engine = bench.engine(base, layers)
    fused = _fused_engine(bench, archives[0])
    several = [(adapter, bench.drawing(number)) for number, adapter in enumerate(adapters)]
    alone = [(adapters[0], drawing) for _, drawing in several]

    def one_by_one(engine: Engine, asked: Sequence[tuple[Adapter, Drawing]]) -> None:
        for each in asked:
            drawn(engine, [each])

    # Check that both engines draw correctly: the first tenant's picture is the same by both, and
    # differs from another tenant's.
    own, other = (
        drawn(engine, asked)
        for asked in (several, [(adapter, bench.drawing(0)) for adapter in adapters])
    )
    if np.array_equal(other[0], other[1]):
        raise RuntimeError("two tenants' adapters draw the same picture")
    difference = np.abs(own[0].astype(int) - drawn(fused, alone)[0].astype(int))
    ways: dict[str, Callable[[], object]] = {
        "mixed": lambda: drawn(engine, several),
        "single": lambda: drawn(fused, alone),
        "sequential": lambda: one_by_one(engine, several),
        "single_sequential": lambda: one_by_one(fused, alone),
    }
    rounds = _rounds(ways, bench.count(9, 1))
    seconds = {name: np.array([each[name] for each in rounds]) for name in ways}
    return {
        "mixed_over_single": median(seconds["single"] / seconds["mixed"]),
        "mixed_over_sequential": median(seconds["sequential"] / seconds["mixed"]),
        "single_over_its_sequential": median(seconds["single_sequential"] / seconds["single"]),
        **{f"{name}_images_per_second": median(TOGETHER / seconds[name], 2) for name in ways},
        "mixed_tenants": TOGETHER,
        "mixed_rounds": len(rounds),
        "fused_largest_difference_of_255": int(difference.max()),
        "fused_share_of_bytes_different": round(float((difference > 0).mean()), 5),
    }


def _fused_engine(bench: Bench, archive: Path) -> Engine:
    """An engine over one tenant's adapter fused into the weights, without adapter layers."""
    base = bench.load()
    folder = bench.scratch / "fused"
    folder.mkdir()
    extract_archive(archive, folder)
    base.pipeline.load_lora_weights(folder, weight_name=WEIGHTS_FILE)
    base.pipeline.fuse_lora()
    base.pipeline.unload_lora_weights()
    # The engine fills slots as usual, but the UNet no longer contains any.
    layers = LoraLayers(base.unet, bench.training.targets, 2, 1)
    layers.remove()
    return bench.engine(base, layers)


@dataclass(frozen=True)
class _Arrival:
    at: float
    """Seconds from the beginning."""
    adapter: Adapter
    drawing: Drawing


def load(bench: Bench) -> dict[str, Any]:
    """Poisson arrivals, served by continuous batching and by static batching with the same engine.

    The rate is the geometric mean of the rates of single pictures and of full batches, so that it
    lies between them. When a static batcher is free, it takes waiting pictures, fairly between
    tenants and as many as there are places. It then draws them to their end.

    Each way has its own clock, which advances by the time of its turns and skips idle time. The way
    whose clock is behind takes the next turn, so that a busy moment of the machine affects both.
    """
    base, other_base = bench.load(), bench.load()
    layers, other_layers = bench.layers(base), bench.layers(other_base)
    adapters = _adapters(bench, base, layers, bench.count(CROWD, 2))
    engine, other_engine = bench.engine(base, layers), bench.engine(other_base, other_layers)
    places = bench.serving.engine.places
    full = [(adapters[number % len(adapters)], bench.drawing(number)) for number in range(places)]
    ways: dict[str, Callable[[], object]] = {
        "one": lambda: [drawn(engine, [each]) for each in full[:4]],
        "batch": lambda: drawn(engine, full),
    }
    rounds = _rounds(ways, bench.count(5, 1))
    one = 4 / float(np.median([each["one"] for each in rounds]))
    batch = places / float(np.median([each["batch"] for each in rounds]))
    rate = (one * batch) ** 0.5
    requests = bench.count(120, 4)
    ratios: list[float] = []
    overall: list[float] = []
    answered: dict[str, list[float]] = {"continuous": [], "static": []}
    for number in range(bench.count(3, 1)):
        arrivals = _arrivals(bench, adapters, requests, rate, seed=number)
        continuous = _OpenLoop(bench, engine, arrivals, None)
        static = _OpenLoop(bench, other_engine, arrivals, places)
        _in_step(continuous, static)
        # Compare the requests that were late in both ways, so that the requests are the same. If
        # there are none, as in a short run, compare all.
        late = [index for index in range(requests) if continuous.late[index] and static.late[index]]
        late = late or list(range(requests))
        for name, loop in (("continuous", continuous), ("static", static)):
            answered[name] += [loop.latency_ms[index] for index in late]
        p95 = [np.percentile(times[-len(late) :], 95) for times in answered.values()]
        ratios.append(float(p95[0] / p95[1]))
        overall.append(float(np.median(continuous.latency_ms) / np.median(static.latency_ms)))
        print(
            f"load: round {number + 1}, p95 of {len(late)} late requests over static "
            f"{ratios[-1]:.3f}",
            flush=True,
        )
    alone = _OpenLoop(bench, engine, _arrivals(bench, adapters, requests, rate, seed=0), 1)
    _in_step(alone)
    return {
        "late_request_p95_over_static": median(ratios),
        "all_requests_p50_over_static": median(overall),
        **{
            f"late_{name}_p{share}_ms": percentile(times, share, 0)
            for name, times in answered.items()
            for share in (50, 95, 99)
        },
        "one_by_one_p95_ms": percentile(alone.latency_ms, 95, 0),
        "arrivals_per_second": round(rate, 2),
        "one_by_one_capacity_per_second": round(one, 2),
        "batch_capacity_per_second": round(batch, 2),
        "load_places": places,
        "load_requests": len(ratios) * requests,
        "late_requests": len(answered["static"]),
    }


def _arrivals(
    bench: Bench, adapters: Sequence[Adapter], count: int, rate: float, seed: int
) -> list[_Arrival]:
    """Requests at exponential intervals, from tenants by Zipf's law."""
    source = random.Random(seed)
    weights = [1 / rank**ZIPF for rank in range(1, len(adapters) + 1)]
    at, arrivals = 0.0, []
    for number in range(count):
        at += source.expovariate(rate)
        (adapter,) = source.choices(adapters, weights)
        arrivals.append(_Arrival(at, adapter, bench.drawing(number)))
    return arrivals


class _OpenLoop:
    """Passes arrivals through an engine: each as it comes, or in static batches of at most
    ``static``."""

    def __init__(
        self, bench: Bench, engine: Engine, arrivals: Sequence[_Arrival], static: int | None
    ) -> None:
        self._bench = bench
        self._engine = engine
        self._arrivals = arrivals
        self._static = static
        self._coming = 0
        # The queue is like the engine's own, so that both ways are equally fair between tenants.
        self._waiting: FairQueue[Adapter, int] = FairQueue(len(arrivals), len(arrivals))
        self._drawing: dict[Job, int] = {}
        self.clock = 0.0
        """Seconds since the first possible turn."""
        self.latency_ms = [0.0] * len(arrivals)
        self.late = [False] * len(arrivals)
        """Whether each request came while a batch was running."""

    @property
    def ended(self) -> bool:
        return self._coming == len(self._arrivals) and not self._waiting and not self._drawing

    def turn(self) -> None:
        """Admit the due arrivals, and take one turn of the engine."""
        if not self._drawing and not self._waiting:
            self.clock = max(self.clock, self._arrivals[self._coming].at)
        self._let_in()
        began = time.perf_counter()
        self._engine.turn()
        self._bench.synchronise()
        self.clock += time.perf_counter() - began
        for job in [job for job in self._drawing if job.answer.done()]:
            job.answer.result()
            index = self._drawing.pop(job)
            self.latency_ms[index] = 1000 * (self.clock - self._arrivals[index].at)
        while self._next_has_come():
            self.late[self._coming] = True
            self._take_next()

    def _let_in(self) -> None:
        while self._next_has_come():
            self._take_next()
        if self._static is None:
            places = len(self._waiting)
        else:
            places = 0 if self._drawing else min(self._static, len(self._waiting))
        for _, index in [self._waiting.take() for _ in range(places)]:
            asked = self._arrivals[index]
            self._drawing[self._engine.submit(asked.adapter, [asked.drawing])] = index

    def _next_has_come(self) -> bool:
        return self._coming < len(self._arrivals) and self._arrivals[self._coming].at <= self.clock

    def _take_next(self) -> None:
        asked = self._arrivals[self._coming]
        self._waiting.put(asked.adapter, [self._coming], asked.drawing.cost)
        self._coming += 1


def _in_step(*loops: _OpenLoop) -> None:
    """Run loops to their end, the one whose clock is behind first."""
    while running := [loop for loop in loops if not loop.ended]:
        min(running, key=lambda loop: loop.clock).turn()


def _adapters(bench: Bench, base: Base, layers: LoraLayers, count: int) -> list[Adapter]:
    archives = write_tenants(bench, base, layers, count)
    return [read_tenant(bench, base, layers.shapes(), archive) for archive in archives]


def _rounds(ways: dict[str, Callable[[], object]], rounds: int) -> list[dict[str, float]]:
    """Seconds of each way in each round, after an uncounted round; the order differs in each
    round."""
    for way in ways.values():
        way()
    return [
        {name: _timed(ways[name]) for name in order} for order in alternated(tuple(ways), rounds)
    ]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _resident_mib() -> float:
    gc.collect()
    return round(psutil.Process().memory_info().rss / 2**20, 1)
