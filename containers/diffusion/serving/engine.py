"""The engine: one thread that owns the base and draws the pictures of all tenants, a step of many
at a time.

Every turn of its loop gives free places to waiting pictures. It then runs the UNet once for all
pictures in flight of one size, each at its own step with its own adapter, guidance and seed. Last
it answers the finished ones. A request therefore joins at the next step instead of waiting for a
batch to end, and leaves at its own end (iteration-level scheduling as in Orca, Yu et al. 2022).

A picture drawn beside others equals the picture drawn alone, within `SAME_PICTURE`. Its neighbours
affect only the order in which sums are rounded.
"""

import asyncio
import logging
import math
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from containers.diffusion.adapters.adapter import Adapter
from containers.diffusion.adapters.lora import BASE_SLOT, LoraLayers
from containers.diffusion.base.pipeline import Base, Conditioning
from containers.diffusion.base.prompts import PromptCache
from containers.diffusion.base.sampler import Sampler, Schedule, noise
from containers.diffusion.serving.admission import FairQueue, QueueFullError
from containers.diffusion.serving.bank import AdapterBank
from containers.diffusion.serving.request import Drawing, PictureRequest
from containers.runtime.serving.serving_errors import (
    DeadlineExceededError,
    ServingError,
    TooManyRequestsError,
)

Pixels = npt.NDArray[np.uint8]
"""A picture: (height, width, 3)."""

SAME_PICTURE: Final = (1, 0.001)
"""The largest difference from the same picture drawn alone, in fp32: at most 1 of 255, in at most
0.1 % of its bytes."""

DECODED_TOGETHER: Final = 8
"""Pictures that one call of the autoencoder decodes, which needs far more memory for each than the
UNet."""

CLOSING_SECONDS: Final = 5.0
"""How long `Engine.close` waits for the current turn, because the process has to end soon."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """How many pictures the engine draws at once and lets wait."""

    places: int = 16
    """Pictures in flight at most."""
    waiting: int = 256
    """Pictures that may wait, of all tenants together."""
    waiting_of_tenant: int = 64
    prompt_cache_bytes: int = 64 * 1024 * 1024


@dataclass(eq=False)
class Job:
    """A request in the engine. ``answer`` receives its pictures in the order of its drawings, or an
    error."""

    adapter: Adapter
    drawings: Sequence[Drawing]
    answer: "Future[list[Pixels]]" = field(default_factory=Future)
    pictures: dict[int, Pixels] = field(default_factory=dict)
    called_off: bool = False

    def fail(self, error: Exception) -> None:
        """Answer with ``error``, unless the job has its answer or no caller waits for it."""
        if not self.answer.done() and self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)


@dataclass(eq=False)
class _InFlight:
    """A picture being drawn: number ``number`` of its job, ``done`` steps from noise."""

    job: Job
    number: int
    drawing: Drawing
    schedule: Schedule
    words: Conditioning
    away_from: Conditioning | None
    latents: Tensor
    slot: int = BASE_SLOT
    done: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.drawing.width, self.drawing.height


@dataclass
class EngineCounters:
    """Counts since the engine was made."""

    steps: int = 0
    """Calls of the UNet."""
    picture_steps: int = 0
    """Steps of single pictures: over ``steps``, the mean batch."""
    pictures: int = 0
    called_off: int = 0
    """Pictures that left unfinished: the client disconnected, the time ran out, or the request
    failed."""
    turned_away: int = 0
    """Requests that the engine refused because the queue was full."""
    out_of_time: int = 0
    failures: int = 0
    seconds: float = 0.0
    """Duration of the turns that drew something."""


class Engine:
    """Draws pictures of adapters over one base.

    `draw` and `forget` may be called from any thread; everything else happens in `turn`. Only one
    thread calls `turn`: the one that `start` starts, or the caller's own without `start`.
    """

    def __init__(self, base: Base, layers: LoraLayers, settings: EngineSettings) -> None:
        """Draw with ``base``, whose UNet ``layers`` adapts."""
        self.base = base
        self.settings = settings
        self.counters = EngineCounters()
        self.bank = AdapterBank(layers)
        self.prompts = PromptCache(base, settings.prompt_cache_bytes)
        self._layers = layers
        self._sampler = Sampler(base)
        self._in_flight: list[_InFlight] = []
        # Sizes in flight; the first one has the next turn.
        self._sizes: list[tuple[int, int]] = []
        # Guards the data that other threads touch: the queue, the adapters to forget, and the stop
        # flag.
        self._changed = threading.Condition()
        self._queue: FairQueue[Adapter, tuple[Job, int]] = FairQueue(
            settings.waiting, settings.waiting_of_tenant
        )
        self._to_forget: list[Adapter] = []
        self._stopping = False
        self._thread: threading.Thread | None = None

    # Other threads call the methods below.

    def start(self) -> None:
        """Start the engine's own thread; returns when the base is warm, or raises the error of the
        warm-up."""
        warm: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(warm,), name="engine", daemon=True)
        self._thread.start()
        warm.result()

    def close(self) -> None:
        """Stop after the current turn, if it ends soon; unfinished jobs get an error as their
        answer."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSING_SECONDS)

    def submit(self, adapter: Adapter, drawings: Sequence[Drawing]) -> Job:
        """Queue drawings. Raises `TooManyRequestsError`, and then queues none of them."""
        job = Job(adapter, drawings)
        with self._changed:
            if self._stopping:
                raise ServingError("the server is stopping; ask again")
            try:
                self._queue.put(
                    adapter, [(job, number) for number in range(len(drawings))], drawings[0].cost
                )
            except QueueFullError as full:
                self.counters.turned_away += 1
                raise self._too_many(full, len(drawings)) from full
            self._changed.notify()
        return job

    def _too_many(self, full: QueueFullError, asked: int) -> TooManyRequestsError:
        most = self.settings.waiting_of_tenant if full.of_tenant else self.settings.waiting
        done = max(1, self.counters.pictures)
        seconds = min(60, max(1, math.ceil(full.waiting * self.counters.seconds / done)))
        whose = "of this model" if full.of_tenant else "of all models"
        return TooManyRequestsError(
            f"{full.waiting} pictures {whose} are waiting and {asked} more would be over {most}; "
            f"try again in {seconds} s",
            retry_after_seconds=seconds,
        )

    def call_off(self, job: Job) -> None:
        """Stop drawing a job: waiting pictures leave now, pictures in flight at the next turn. A
        finished job is unaffected."""
        with self._changed:
            job.called_off = True
            left = self._queue.remove(job.adapter, lambda item: item[0] is job)
            self.counters.called_off += len(left)
            self._changed.notify()

    def forget(self, adapter: Adapter) -> None:
        """Wipe an adapter from the device at the next turn; its unfinished jobs get an error as
        their answer."""
        with self._changed:
            self._to_forget.append(adapter)
            self._changed.notify()

    async def draw(self, adapter: Adapter, request: PictureRequest) -> list[Pixels]:
        """The pictures of a request.

        Raises `TooManyRequestsError`, or `DeadlineExceededError` when its time is over. In both
        cases, and when the caller is cancelled, the engine drops the request.
        """
        job = self.submit(adapter, request.drawings)
        try:
            async with asyncio.timeout(request.timeout_seconds):
                return await asyncio.wrap_future(job.answer)
        except TimeoutError as error:
            self.counters.out_of_time += 1
            raise DeadlineExceededError(
                f"{len(job.pictures)} of {len(job.drawings)} pictures were ready in "
                f"{request.timeout_seconds:g} s; ask for fewer"
                " steps or pictures, for more time (timeout_seconds), or through an asynchronous "
                "endpoint",
                "timeout_seconds",
            ) from error
        finally:
            self.call_off(job)

    def status(self) -> dict[str, Any]:
        """Figures for people."""
        counters = self.counters
        with self._changed:
            waiting = len(self._queue)
        return {
            "in_flight": len(self._in_flight),
            "waiting": waiting,
            **vars(counters),
            "seconds": round(counters.seconds, 3),
            "mean_batch": round(counters.picture_steps / counters.steps, 2)
            if counters.steps
            else None,
            "slots": {
                "used": self.bank.used,
                "of": self._layers.slots - 1,
                **vars(self.bank.counters),
            },
            "slot_bytes": self._layers.bytes_per_slot,
            "prompts": {
                "bytes": self.prompts.bytes,
                "hits": self.prompts.hits,
                "misses": self.prompts.misses,
            },
        }

    # The engine's thread runs the methods below.

    def _work(self, warm: "Future[None]") -> None:
        try:
            self._warm_up()
        except BaseException as error:  # noqa: BLE001 - start raises it
            warm.set_exception(error)
            return
        warm.set_result(None)
        while True:
            with self._changed:
                while not (self._stopping or self._in_flight or self._queue or self._to_forget):
                    self._changed.wait()
                if self._stopping:
                    break
            self.turn()
        with self._changed:
            waiting = [self._queue.take()[1][0] for _ in range(len(self._queue))]
        for job in {*waiting, *(picture.job for picture in self._in_flight)}:
            job.fail(ServingError("the server stopped before the picture was finished; ask again"))

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """Use the base once, so that no tenant's first picture waits for the libraries' first
        call."""
        side = self.base.default_size // self.base.scale
        latents = torch.zeros(
            1, self.base.channels, side, side, dtype=self.base.dtype, device=self.base.device
        )
        words = self.base.encode(["a picture"])
        self.base.predict(
            latents, torch.zeros(1, device=latents.device), words, (self.base.default_size,) * 2
        )
        self.base.to_images(latents)

    @torch.inference_mode()
    def turn(self) -> None:
        """Admit pictures, take one step for those of one size, and answer the finished ones.

        An error becomes the answer of the jobs it affects, and of no others.
        """
        began = time.monotonic()
        self._let_go()
        self._admit()
        if not self._in_flight:
            return
        size = self._next_size()
        group = [picture for picture in self._in_flight if picture.size == size]
        try:
            self._step(group, size)
            finished = [
                picture for picture in group if picture.done == len(picture.schedule.timesteps)
            ]
            for start in range(0, len(finished), DECODED_TOGETHER):
                self._finish(finished[start : start + DECODED_TOGETHER])
        # Any error of the base becomes an answer, and the engine goes on.
        except Exception as error:  # noqa: BLE001
            present = [picture for picture in group if picture in self._in_flight]
            self._leave(present, called_off=True)
            self._fail({picture.job for picture in present}, error)
        self.counters.seconds += time.monotonic() - began

    def _let_go(self) -> None:
        """Drop the pictures of jobs that were called off, then the adapters that were unloaded."""
        with self._changed:
            adapters, self._to_forget = self._to_forget, []
            orphans = {job for adapter in adapters for job, _ in self._queue.forget(adapter)}
        orphans |= {picture.job for picture in self._in_flight if picture.job.adapter in adapters}
        for job in orphans:
            job.called_off = True
            job.fail(
                ServingError(
                    "the model was unloaded before the picture was finished; load it and ask again"
                )
            )
        self._leave(
            [picture for picture in self._in_flight if picture.job.called_off], called_off=True
        )
        for adapter in adapters:
            self.bank.forget(adapter)

    def _leave(self, pictures: Sequence[_InFlight], *, called_off: bool = False) -> None:
        for picture in pictures:
            self._in_flight.remove(picture)
            self.bank.unpin(picture.job.adapter)
        if called_off:
            with self._changed:
                self.counters.called_off += len(pictures)

    def _admit(self) -> None:
        """Give free places to the pictures with the next turns.

        When the next picture needs a slot and all are in use, it and all behind it wait for one. If
        others could overtake it, it might wait for ever.
        """
        while len(self._in_flight) < self.settings.places:
            with self._changed:
                chosen = self._queue.next()
                if chosen is None or not self.bank.has_room(chosen[0]):
                    return
                adapter, (job, number) = self._queue.take()
            try:
                picture = self._begin(job, number)
                picture.slot = self.bank.pin(adapter)
            # Any error of the base becomes an answer, and the engine goes on.
            except Exception as error:  # noqa: BLE001
                self._fail({job}, error)
            else:
                self._in_flight.append(picture)

    def _begin(self, job: Job, number: int) -> _InFlight:
        drawing = job.drawings[number]
        side = self.base.scale
        latents = noise(
            drawing.seed, (self.base.channels, drawing.height // side, drawing.width // side)
        )
        return _InFlight(
            job=job,
            number=number,
            drawing=drawing,
            schedule=self._sampler.schedule(drawing.steps),
            words=self.prompts.of(drawing.prompt),
            away_from=self.prompts.of(drawing.negative_prompt) if drawing.guided else None,
            latents=latents.to(self.base.device),
        )

    def _next_size(self) -> tuple[int, int]:
        """The size in flight that was stepped least recently."""
        present = {picture.size for picture in self._in_flight}
        self._sizes = [size for size in self._sizes if size in present]
        self._sizes += sorted(present - set(self._sizes))
        size = self._sizes.pop(0)
        self._sizes.append(size)
        return size

    def _step(self, group: Sequence[_InFlight], size: tuple[int, int]) -> None:
        """One step of pictures of one size, in one call of the UNet."""
        # A guided picture is two adjacent samples: its negative prompt, then its prompt.
        samples: list[tuple[int, Conditioning]] = []
        for number, picture in enumerate(group):
            if picture.away_from is not None:
                samples.append((number, picture.away_from))
            samples.append((number, picture.words))
        latents = torch.stack([picture.latents for picture in group])
        order = torch.tensor([number for number, _ in samples], device=latents.device)
        timesteps = [picture.schedule.timesteps[picture.done] for picture in group]
        self._layers.routing.route([group[number].slot for number, _ in samples], self.base.device)
        predicted = self.base.predict(
            latents.index_select(0, order).to(self.base.dtype),
            torch.tensor([timesteps[number] for number, _ in samples], device=latents.device),
            [words for _, words in samples],
            size,
        ).to(latents.dtype)
        prediction = self._guided(group, predicted)
        moved = self._sampler.step(
            latents, prediction, [picture.schedule.steps[picture.done] for picture in group]
        )
        for picture, now in zip(group, moved.unbind(), strict=True):
            picture.latents = now
            picture.done += 1
        self.counters.steps += 1
        self.counters.picture_steps += len(group)

    def _guided(self, group: Sequence[_InFlight], predicted: Tensor) -> Tensor:
        """One prediction a picture (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, eq.
        6)."""
        last, sample = [], -1
        for picture in group:
            sample += 2 if picture.drawing.guided else 1
            last.append(sample)
        # An unguided picture has one sample, so that both indices point to it and guidance adds
        # nothing.
        first = [
            end - 1 if picture.drawing.guided else end
            for end, picture in zip(last, group, strict=True)
        ]
        scale = torch.tensor(
            [picture.drawing.guidance if picture.drawing.guided else 1.0 for picture in group],
            dtype=predicted.dtype,
            device=predicted.device,
        )[:, None, None, None]
        away = predicted.index_select(0, torch.tensor(first, device=predicted.device))
        towards = predicted.index_select(0, torch.tensor(last, device=predicted.device))
        return away + scale * (towards - away)

    def _finish(self, finished: Sequence[_InFlight]) -> None:
        """Decode pictures and give them to their jobs."""
        latents = torch.stack([picture.latents for picture in finished])
        usable = torch.isfinite(latents).flatten(1).all(1).tolist()
        images = self.base.to_images(latents).numpy()
        self._leave(finished)
        for picture, image, whole in zip(finished, images, usable, strict=True):
            job = picture.job
            if not whole:
                self._fail({job}, FloatingPointError())
                continue
            job.pictures[picture.number] = image
            self.counters.pictures += 1
            if len(job.pictures) == len(job.drawings) and job.answer.set_running_or_notify_cancel():
                job.answer.set_result([job.pictures[number] for number in range(len(job.drawings))])

    def _fail(self, jobs: set[Job], error: Exception) -> None:
        """Answer jobs with an error; their other pictures are not drawn."""
        self.counters.failures += 1
        # Log the place but not the message, because the message may contain a tenant's words.
        trace = "".join(traceback.format_tb(error.__traceback__))
        _log.error("draw_failed jobs=%d %s\n%s", len(jobs), type(error).__name__, trace)
        if isinstance(error, FloatingPointError):
            message = (
                "the model's numbers leave the range that can be computed with; train it again"
            )
        else:
            message = f"the picture could not be drawn: {type(error).__name__}"
        for job in jobs:
            self.call_off(job)
            job.fail(ServingError(message))
