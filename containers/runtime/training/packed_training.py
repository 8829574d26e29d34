"""The loop of a training container that trains many tenants' models in one job.

A family provides a `Trainer`; a container's `train` script only calls `main(trainer)`. The loop
reads the tasks, passes them to the family in batches, and stores each result as soon as the family
yields it. An interruption therefore costs only the current work, and a tenant's bad data fail only
that tenant. docs/contracts.md, "Training container", holds the contract.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol

from containers.runtime.archives.archive import RefusedArchiveError, extract_tar
from containers.runtime.training.checkpoints import Checkpoints, Spent, UnusableResultError
from containers.runtime.training.training_input import (
    InvalidTrainingInputError,
    Task,
    TrainingInput,
    base_folder,
    batches,
    read_training_input,
)
from contracts import progress
from contracts.logs import UnknownLogFormatError, log_fields, write_logs
from contracts.outcomes import Outcome

__all__ = [
    "InvalidTrainingInputError",
    "Progress",
    "Refused",
    "Task",
    "Trained",
    "Trainer",
    "Underway",
    "main",
]

# SageMaker shows the first 1,024 characters of output/failure as the job's FailureReason.
FAILURE_CHARACTERS: Final = 1024
PROGRESS_SECONDS: Final = 5.0
"""Seconds between two progress reports of a running batch."""

_log = logging.getLogger(__name__)

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Trained:
    """A trained model. `folder` holds the files to archive; the runtime adds card.json.

    `metrics` are finite numbers; `card` describes the model; `preview` is small data for people to
    look at. `files` maps names to paths of files that the tenant receives besides the archive,
    before the job ends.
    """

    task: Task
    folder: Path
    metrics: Mapping[str, float]
    card: Mapping[str, Any] = field(default_factory=dict)
    preview: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Underway:
    """The progress of `tasks` that train together: `step` of `steps`, and figures such as the loss.

    A family whose results are minutes apart yields it after each step. The loop then:

    - ends between two steps when it is asked to stop;
    - reports the progress every few seconds;
    - charges the time since the last step to `tasks` in equal parts.
    """

    tasks: Sequence[Task]
    step: int
    steps: int
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """A task that yields no model. `reason` is a sentence for the tenant's owner.

    `retryable` says whether trying the same data again may help.
    """

    task: Task
    reason: str
    retryable: bool = False


class Trainer(Protocol):
    """A family of models, as the loop uses it."""

    family: str

    def train(
        self, tasks: Sequence[Task], hyperparameters: Mapping[str, str], workspace: Path
    ) -> Iterator[Trained | Refused | Underway]:
        """Yield the result of each of `tasks`, as soon as it is known and in any order, with
        `Underway` in between.

        `workspace` is an empty folder for this call, deleted after it. After an exception, the loop
        passes the tasks without a result again, one by one. Only `InvalidTrainingInputError`, for
        hyperparameters that no task can train with, fails the job.
        """
        ...


def main(
    trainer: Trainer,
    open_progress: Callable[[], contextlib.AbstractContextManager[Progress]] | None = None,
) -> int:
    """Run the training job that the environment describes, and return the process's exit status.

    The status is:

    - 0 when every task of this instance has an outcome, good or bad;
    - 1 when the loop could not run, with the reason in output/failure;
    - 143 when SIGTERM or SIGINT ended it early.

    `open_progress` opens the channel for progress reports.
    """
    base = base_folder()
    try:
        write_logs(sys.stdout, logging.INFO, "%(message)s")
    except UnknownLogFormatError as error:
        return _fail(base, str(error))
    stop = _Stop()
    with stop.listening():
        try:
            work = read_training_input(base)
            with (
                log_fields(workload=work.workload, pack=work.pack),
                (open_progress or _progress_of_environment)() as progress,
            ):
                return _Loop(trainer, work, base, progress, stop).run()
        except InvalidTrainingInputError as error:
            return _fail(base, str(error))
        except Exception as error:  # noqa: BLE001 - the last place that can say why the job failed
            _log.exception("training_failed")
            return _fail(base, f"the training loop stopped: {type(error).__name__}: {error}")


def _fail(base: Path, reason: str) -> int:
    _log.error("training_failed: %s", reason)
    output = base / "output"
    output.mkdir(parents=True, exist_ok=True)
    (output / "failure").write_text(reason[:FAILURE_CHARACTERS])
    return 1


@contextlib.contextmanager
def _progress_of_environment() -> Iterator[Progress]:
    """Dagster Pipes when its variables are set, otherwise only the log."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield lambda _payload: None
        return
    # Only a job that Dagster started needs the import.
    from containers.runtime.training.pipes import open_pipes_progress

    with open_pipes_progress() as progress:
        yield progress


class _Stop:
    """Whether SIGTERM or SIGINT asked the loop to end after the current task."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    # `signal` requires this signature.
    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.asked = True


class _Stopwatch:
    """The time between laps, of the clock and of this process and its ended children."""

    def __init__(self) -> None:
        self._clock, self._processor = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), sum(os.times()[:4])

    def lap(self) -> Spent:
        """Time since the last lap; a batch's time is the sum of its laps."""
        clock, processor = self._now()
        spent = Spent(seconds=clock - self._clock, cpu_seconds=processor - self._processor)
        self._clock, self._processor = clock, processor
        return spent


class _Account:
    """The cost of each task of a batch: the time since the previous result, and its share of joint
    work."""

    def __init__(self) -> None:
        self._watch = _Stopwatch()
        self._shares: dict[str, Spent] = {}

    def share(self, tasks: Sequence[Task]) -> None:
        """Charge the time since the last lap to `tasks`, in equal parts."""
        spent = self._watch.lap()
        for task in tasks:
            before = self._shares.get(task.task, Spent(0.0, 0.0))
            self._shares[task.task] = Spent(
                before.seconds + spent.seconds / len(tasks),
                before.cpu_seconds + spent.cpu_seconds / len(tasks),
            )

    def settle(self, task: Task) -> Spent:
        """The cost of `task`, including the time since the last lap."""
        self.share([task])
        return self._shares.pop(task.task)


class _Loop:
    """One instance's work on a packed training job."""

    def __init__(
        self, trainer: Trainer, work: TrainingInput, base: Path, progress: Progress, stop: _Stop
    ) -> None:
        self._trainer = trainer
        self._work = work
        self._base = base
        self._progress = progress
        self._stop = stop
        self._checkpoints = Checkpoints(base / "checkpoints", work.workload, trainer.family)
        self._counts = {"succeeded": 0, "failed": 0, "resumed": 0}
        self._trace_ids = {task.task: task.trace_id for task in work.tasks}

    def run(self) -> int:
        """Train every task of this instance that has no outcome yet; returns the exit status."""
        work = self._work
        started = time.monotonic()
        _log.info(
            "training_started workload=%s pack=%s host=%s instances=%d tasks=%d batch_size=%d",
            work.workload,
            work.pack,
            work.current_host,
            len(work.hosts),
            len(work.tasks),
            work.batch_size,
        )
        # The workspace lies beside checkpoints, so that a rename on one file system puts results in
        # place. It is never synced to S3.
        self._base.mkdir(parents=True, exist_ok=True)
        workspace = Path(tempfile.mkdtemp(prefix="workspace-", dir=self._base))
        try:
            for batch in batches(self._without_those_done(workspace), work.batch_size):
                if self._stop.asked:
                    break
                self._do(batch, workspace)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
        self._write_summary(time.monotonic() - started)
        if self._stop.asked and self._left() > 0:
            _log.warning("training_stopped host=%s not_started=%d", work.current_host, self._left())
            return 128 + signal.SIGTERM
        return 0

    def _left(self) -> int:
        return len(self._work.tasks) - self._counts["succeeded"] - self._counts["failed"]

    def _without_those_done(self, workspace: Path) -> list[Task]:
        """The tasks to train. Tasks that an earlier run of the job ended are reported again; tasks
        without data fail."""
        left = []
        for task in self._work.tasks:
            outcome = self._checkpoints.existing(task)
            if outcome is not None:
                self._counts["resumed"] += 1
                self._ended(outcome)
            elif not task.is_here:
                self._started(task)
                reason = "the training data of this task did not reach the training job"
                self._without_data(task, reason, workspace)
            else:
                left.append(task)
        return left

    def _do(self, batch: Sequence[Task], workspace: Path) -> None:
        """Train a batch. If it raises with several tasks left, train those one by one to find the
        bad one."""
        for task in batch:
            self._started(task)
        folder = Path(tempfile.mkdtemp(prefix="data-", dir=workspace))
        try:
            ready = self._unpacked(batch, folder, workspace)
            left = self._attempt(ready, workspace, last=len(ready) == 1)
            for task in left:
                if self._stop.asked:
                    return
                self._attempt([task], workspace, last=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _unpacked(self, batch: Sequence[Task], folder: Path, workspace: Path) -> list[Task]:
        """The tasks of a batch, with the archives among their data extracted below `folder`. Only
        one batch at a time takes the room. A task whose archive is malformed fails."""
        ready: list[Task] = []
        for number, task in enumerate(batch):
            if self._stop.asked:
                break
            if task.data.is_dir():
                ready.append(task)
                continue
            data = folder / str(number)
            data.mkdir()
            try:
                extract_tar(task.archive, data)
            except RefusedArchiveError as error:
                reason = f"the training data of this task cannot be unpacked: {error}"
                self._without_data(task, reason, workspace)
            else:
                ready.append(replace(task, data=data))
        return ready

    def _without_data(self, task: Task, reason: str, workspace: Path) -> None:
        nothing = Spent(0.0, 0.0)
        self._ended(
            self._checkpoints.failed(
                task, reason, retryable=True, spent=nothing, workspace=workspace
            )
        )

    def _attempt(self, tasks: Sequence[Task], workspace: Path, *, last: bool) -> list[Task]:
        """Pass `tasks` to the family once and store its results; returns the tasks to try again.

        With `last`, a task without a result fails.
        """
        pending = {task.task: task for task in tasks}
        folder = Path(tempfile.mkdtemp(prefix="batch-", dir=workspace))
        account = _Account()
        told = time.monotonic()
        problem = "the trainer gave no result for this task"
        raised = False
        results: Iterator[object] | None = None
        try:
            while pending and not self._stop.asked:
                try:
                    results = results or iter(
                        self._trainer.train(tasks, self._work.hyperparameters, folder)
                    )
                    result = next(results, None)
                except InvalidTrainingInputError:
                    raise
                # A family's error fails its tasks, not the loop.
                except (Exception, SystemExit) as error:  # noqa: BLE001
                    raised = True
                    problem = f"{type(error).__name__}: {error}"
                    _log.exception("trainer_raised tasks=%s", ",".join(list(pending)[:20]))
                    break
                if result is None:
                    break
                if isinstance(result, Underway):
                    account.share(
                        [task for task in result.tasks if task.task in pending]
                        or list(pending.values())
                    )
                    if time.monotonic() - told >= PROGRESS_SECONDS:
                        told = time.monotonic()
                        self._underway(result)
                    continue
                if not isinstance(result, Trained | Refused) or result.task.task not in pending:
                    _log.error(
                        "result_ignored: it is neither Trained nor Refused, not of this batch, or "
                        "came twice"
                    )
                    continue
                task = pending.pop(result.task.task)
                self._ended(self._store(task, result, account.settle(task), workspace))
        finally:
            close = getattr(results, "close", None)
            if close is not None:
                with contextlib.suppress(Exception):
                    close()
            shutil.rmtree(folder, ignore_errors=True)
        if self._stop.asked:
            return []
        if raised and not last:
            return list(pending.values())
        for task in pending.values():
            spent = account.settle(task)
            self._ended(
                self._checkpoints.failed(
                    task, problem, retryable=True, spent=spent, workspace=workspace
                )
            )
        return []

    def _store(
        self, task: Task, result: Trained | Refused, spent: Spent, workspace: Path
    ) -> Outcome:
        if isinstance(result, Refused):
            return self._checkpoints.failed(
                task, result.reason, retryable=result.retryable, spent=spent, workspace=workspace
            )
        try:
            return self._checkpoints.succeeded(
                task,
                result.folder,
                result.metrics,
                result.card,
                result.preview,
                result.files,
                spent,
                workspace,
            )
        except (UnusableResultError, RefusedArchiveError, FileNotFoundError) as error:
            reason = f"the model could not be stored: {error}"
            return self._checkpoints.failed(
                task, reason, retryable=False, spent=spent, workspace=workspace
            )

    def _started(self, task: Task) -> None:
        with log_fields(tenant=task.tenant, request=task.task, trace_id=task.trace_id):
            _log.info(
                "task_started task=%s tenant=%s version=%s", task.task, task.tenant, task.version
            )
        self._tell(progress.task_started(task.task, task.tenant, task.version))

    def _underway(self, result: Underway) -> None:
        figures = " ".join(f"{name}={value:.4g}" for name, value in result.figures.items())
        _log.info(
            "training_underway tasks=%d step=%d/%d %s",
            len(result.tasks),
            result.step,
            result.steps,
            figures,
        )
        for task in result.tasks:
            self._tell(progress.task_progress(task.task, result.step, result.steps))

    def _ended(self, outcome: Outcome) -> None:
        self._counts[outcome.status] += 1
        trace_id = self._trace_ids[outcome.task]
        with log_fields(tenant=outcome.tenant, request=outcome.task, trace_id=trace_id):
            _log.info(
                "task_finished task=%s tenant=%s version=%s status=%s seconds=%s",
                outcome.task,
                outcome.tenant,
                outcome.version,
                outcome.status,
                outcome.seconds,
            )
        self._tell(progress.task_finished(outcome))

    def _tell(self, payload: Mapping[str, Any]) -> None:
        try:
            self._progress(payload)
        # Only the outcome in checkpoints counts, so that a lost message may not fail the task.
        except Exception:  # noqa: BLE001
            _log.exception("progress_lost event=%s", payload["event"])

    def _write_summary(self, seconds: float) -> None:
        """Write counts for SageMaker's own model.tar.gz, under a name for each instance because it
        merges their folders."""
        work = self._work
        summary = {
            "format": 1,
            "workload": work.workload,
            "pack": work.pack,
            "family": self._trainer.family,
            "host": work.current_host,
            "tasks": len(work.tasks),
            **self._counts,
            "not_started": self._left(),
            "seconds": round(seconds, 3),
        }
        folder = self._base / "model"
        folder.mkdir(parents=True, exist_ok=True)
        name = "summary.json" if work.instance_number == 0 else f"summary-{work.current_host}.json"
        (folder / name).write_text(json.dumps(summary, sort_keys=True))
        _log.info("training_finished %s", json.dumps(summary, sort_keys=True))
