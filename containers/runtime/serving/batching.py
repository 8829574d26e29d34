"""Dynamic batching: requests in flight become one call of a family's `predict_batch`.

One call runs at a time, and the next batch gathers meanwhile. An idle family gets a batch when it
is full, or when its first question has waited long enough. These are the rules of Triton's dynamic
batcher with one model instance
(docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/batcher.html). As there, the
wait is 0 unless it is set: no question waits for company while nobody works.

All state belongs to the event loop's thread, as in `model_store`.
"""

import asyncio
import inspect
import logging
import traceback
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, cast

from containers.runtime.serving.predictor import Answer, ModelT, Predictor, Question
from contracts import variables

QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Asked(Generic[QuestionT, AnswerT]):
    """A question, the loop's time of its arrival, and its answer or its error once there is one."""

    question: QuestionT
    arrived: float
    answer: "asyncio.Future[AnswerT | Exception]"

    def give(self, answer: AnswerT | Exception) -> None:
        """Answer, unless the client disconnected."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Batcher(Generic[QuestionT, AnswerT]):
    """Gathers questions into calls, in the order in which they arrive."""

    def __init__(
        self,
        call: Callable[[list[QuestionT]], Awaitable[Sequence[AnswerT | Exception]]],
        max_batch: int,
        max_wait_seconds: float,
    ) -> None:
        """Gather for `call`, which returns an answer or an exception for each question, in their
        order."""
        self._call = call
        self._max_batch = max_batch
        self._max_wait = max_wait_seconds
        self._waiting: deque[_Asked[QuestionT, AnswerT]] = deque()
        # There is a timer while a batch that is not full waits, and no call runs.
        self._timer: asyncio.TimerHandle | None = None
        self._running: asyncio.Task[None] | None = None
        self._calls: Counter[int] = Counter()

    async def ask(self, question: QuestionT) -> AnswerT:
        """The answer to a question. Raises the question's own exception.

        A cancelled question leaves its batch. If a call works on it, the cancellation takes effect
        when the call has ended, because the call uses the question's model. A second cancellation
        takes effect at once.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked[QuestionT, AnswerT](question, loop.time(), loop.create_future())
        self._waiting.append(asked)
        self._schedule()
        try:
            answer = await asked.answer
        except asyncio.CancelledError:
            if asked in self._waiting:
                self._waiting.remove(asked)
                self._stop_timer()  # it may have been the first, whose time counts
                self._schedule()
            elif asked.answer.cancelled() and self._running is not None:
                await asyncio.wait((self._running,))
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _schedule(self) -> None:
        """Start a call that is due, or set the timer for it."""
        if self._running is not None or not self._waiting:
            return
        if len(self._waiting) >= self._max_batch:
            self._start()
        elif self._timer is None:
            # Even without a wait, the timer lets in what the loop has ready at this moment.
            due = self._waiting[0].arrived + self._max_wait
            self._timer = asyncio.get_running_loop().call_at(due, self._start, context=Context())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._stop_timer()
        batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        # The call's lines of the log have no fields of the request that happened to start it.
        self._running = asyncio.get_running_loop().create_task(self._run(batch), context=Context())

    async def _run(self, batch: list[_Asked[QuestionT, AnswerT]]) -> None:
        try:
            answers = await self._answers([asked.question for asked in batch])
        except Exception as error:  # noqa: BLE001 - one question's fault is not its neighbours'
            if len(batch) > 1:
                _log_failure(len(batch), error)
            for asked in batch:
                if not asked.answer.done():
                    asked.give(error if len(batch) == 1 else await self._alone(asked.question))
        else:
            for asked, answer in zip(batch, answers, strict=True):
                asked.give(answer)
        self._running = None
        self._schedule()

    async def _answers(self, questions: list[QuestionT]) -> Sequence[AnswerT | Exception]:
        self._calls[len(questions)] += 1
        answers = await self._call(questions)
        if len(answers) != len(questions):
            raise RuntimeError(f"{len(answers)} answers to {len(questions)} questions")
        return answers

    async def _alone(self, question: QuestionT) -> AnswerT | Exception:
        """The answer to a question of a failed call, without its neighbours."""
        try:
            return (await self._answers([question]))[0]
        except Exception as error:  # noqa: BLE001 - it becomes the question's answer
            return error

    def status(self) -> dict[str, Any]:
        """Figures for people: the limits, questions that wait, and calls by their size."""
        return {
            "max_batch": self._max_batch,
            "max_wait_ms": round(1000 * self._max_wait),
            "waiting": len(self._waiting),
            "calls": {str(size): count for size, count in sorted(self._calls.items())},
        }


def family_batching(predictor: Predictor[Any]) -> str:
    """How a family answers several requests at once: `by itself`, by `predict_batch`, or `not`."""
    if inspect.iscoroutinefunction(predictor.predict):
        return "by itself"
    return "predict_batch" if hasattr(predictor, "predict_batch") else "not"


def batcher_of(
    predictor: Predictor[ModelT], threads: Executor, max_batch: int, max_wait_ms: int
) -> Batcher[Question[ModelT], Answer] | None:
    """The batcher of a family whose settings ask for batches; None where they do not.

    Raises `ValueError` when the family takes none.
    """
    if max_batch == 1:
        return None
    takes = family_batching(predictor)
    if takes != "predict_batch":
        why = (
            "batches the requests in flight by itself"
            if takes == "by itself"
            else "takes no batches: its predictor has no predict_batch"
        )
        raise ValueError(
            f"{variables.MAX_BATCH} is {max_batch}, and the family {predictor.family!r} {why}; "
            f"unset {variables.MAX_BATCH}"
        )
    predict_batch = cast(Any, predictor).predict_batch

    async def call(questions: list[Question[ModelT]]) -> Sequence[Answer | Exception]:
        answers = await asyncio.get_running_loop().run_in_executor(
            threads, partial(predict_batch, questions)
        )
        return [_checked(answer) for answer in answers]

    return Batcher(call, max_batch, max_wait_ms / 1000)


def _checked(answer: object) -> Answer | Exception:
    if isinstance(answer, Answer | Exception):
        return answer
    return TypeError(f"predict_batch gave {type(answer).__name__} in the place of an answer")


def _log_failure(size: int, error: Exception) -> None:
    # Log the place but not the message, because the message may contain a tenant's data.
    _log.error(
        "batch_failed size=%d %s\n%s",
        size,
        type(error).__name__,
        "".join(traceback.format_tb(error.__traceback__)),
    )
