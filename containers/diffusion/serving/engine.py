"""The engine: one thread that owns the base and draws the pictures of all tenants, a step of many
at a time.

Every turn of its loop lets waiting pictures into free places, runs the UNet once for all pictures
in flight of one size, each at its own step with its own adapter, guidance and seed, and answers
those that are finished. A request so joins at the next step, not when a batch before it has ended,
and leaves at its own end (iteration-level scheduling as in Orca, Yu et al. 2022).

A picture is the same alone and beside any others within `SAME_PICTURE`: nothing of it depends on
its neighbours but the order in which sums are rounded.
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
"""By how much a picture may differ from itself drawn alone, in fp32: at most 1 of 255, in at most
0.1 % of its bytes."""

DECODED_TOGETHER: Final = 8
"""Pictures a call of the autoencoder decodes; it needs far more memory for each than the UNet."""

CLOSING_SECONDS: Final = 5.0
"""How long `Engine.close` waits for the turn in hand: the process has been told to end."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSettings:
    """How much the engine does at once and lets wait."""

    places: int = 16
    """Pictures in flight at most."""
    waiting: int = 256
    """Pictures that may wait, of all tenants together."""
    waiting_of_tenant: int = 64
    prompt_cache_bytes: int = 64 * 1024 * 1024


@dataclass(eq=False)
class Job:
    """A request on its way. ``answer`` gets its pictures in the order of its drawings, or what went
    wrong."""

    adapter: Adapter
    drawings: Sequence[Drawing]
    answer: "Future[list[Pixels]]" = field(default_factory=Future)
    pictures: dict[int, Pixels] = field(default_factory=dict)
    called_off: bool = False

    def fail(self, error: Exception) -> None:
        """Answer with what went wrong, unless it is answered already or nobody waits for it."""
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
    """What the engine did since it was made."""

    steps: int = 0
    """Calls of the UNet."""
    picture_steps: int = 0
    """Steps of single pictures: over ``steps``, the mean batch."""
    pictures: int = 0
    called_off: int = 0
    """Pictures that left before they were finished: their client went, their time was over, or
    their request failed."""
    turned_away: int = 0
    """Requests that were not let in to wait."""
    out_of_time: int = 0
    failures: int = 0
    seconds: float = 0.0
    """Time in turns that drew something."""


class Engine:
    """Draws pictures of adapters over one base.

    `draw` and `forget` may be called from any thread; everything else happens in `turn`, which one
    thread calls: the one that `start` starts, or the caller's own when it is not started.
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
        # Sizes in flight, the one whose turn it is first.
        self._sizes: list[tuple[int, int]] = []
        # Guards what other threads touch: the queue, what is to be forgotten, and whether to go on.
        self._changed = threading.Condition()
        self._queue: FairQueue[Adapter, tuple[Job, int]] = FairQueue(
            settings.waiting, settings.waiting_of_tenant
        )
        self._to_forget: list[Adapter] = []
        self._stopping = False
        self._thread: threading.Thread | None = None

    # What other threads call.

    def start(self) -> None:
        """Begin to work in a thread of the engine's own; returns when the base is warm, or raises
        what it raised."""
        warm: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(warm,), name="engine", daemon=True)
        self._thread.start()
        warm.result()

    def close(self) -> None:
        """Stop after the turn in hand, if it ends soon; what is not finished is answered with an
        error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSING_SECONDS)

    def submit(self, adapter: Adapter, drawings: Sequence[Drawing]) -> Job:
        """Let drawings wait for their turn. Raises `TooManyRequestsError`; then none of them
        waits."""
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
        """Draw no more of a job: what waits leaves now, what is in flight at the next turn. Nothing
        if it is finished."""
        with self._changed:
            job.called_off = True
            left = self._queue.remove(job.adapter, lambda item: item[0] is job)
            self.counters.called_off += len(left)
            self._changed.notify()

    def forget(self, adapter: Adapter) -> None:
        """Wipe an adapter from the device, at the next turn; jobs it still has are answered with an
        error."""
        with self._changed:
            self._to_forget.append(adapter)
            self._changed.notify()

    async def draw(self, adapter: Adapter, request: PictureRequest) -> list[Pixels]:
        """The pictures of a request.

        Raises `TooManyRequestsError`, or `DeadlineExceededError` when its time is over. Either way,
        and when the caller is cancelled, nothing of it stays in the engine.
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

    # What the engine's thread does.

    def _work(self, warm: "Future[None]") -> None:
        try:
            self._warm_up()
        except BaseException as error:  # noqa: BLE001 - it is raised by start
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
        """Use the base once, so that no tenant's first picture pays for what libraries do at their
        first call."""
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
        """Let pictures in, take one step of those of one size, and answer those that are finished.

        What goes wrong is the answer to the jobs it went wrong for, and nobody else's.
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
        # Whatever the base raises is an answer, and the engine goes on.
        except Exception as error:  # noqa: BLE001
            present = [picture for picture in group if picture in self._in_flight]
            self._leave(present, called_off=True)
            self._fail({picture.job for picture in present}, error)
        self.counters.seconds += time.monotonic() - began

    def _let_go(self) -> None:
        """Drop what nobody waits for any more, then the adapters that were unloaded."""
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
        """Give free places to those whose turn it is.

        When the one whose turn it is needs a slot and all are in use, it and all behind it wait for
        one: it would never have its turn if others went past it.
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
            # Whatever the base raises is an answer, and the engine goes on.
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
        """The size that was stepped least recently of those in flight."""
        present = {picture.size for picture in self._in_flight}
        self._sizes = [size for size in self._sizes if size in present]
        self._sizes += sorted(present - set(self._sizes))
        size = self._sizes.pop(0)
        self._sizes.append(size)
        return size

    def _step(self, group: Sequence[_InFlight], size: tuple[int, int]) -> None:
        """One step of pictures of one size, in one call of the UNet."""
        # A guided picture is two samples, side by side: away from something and towards its words.
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
        # An unguided picture has one sample, which is led away from itself by nothing.
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
        """Answer jobs with what went wrong; their other pictures are not drawn."""
        self.counters.failures += 1
        # The place is logged, the message is not: it may hold a tenant's words.
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
