"""Each task's results in /opt/ml/checkpoints: its files if it has any, its archive, then its
outcome.

SageMaker copies this folder to S3 while the job runs and back when it starts again
(docs.aws.amazon.com/sagemaker/latest/dg/model-checkpoints.html), so a file appears in it whole or
not at all. An outcome appears only after the archive and the files that it names.
"""

import errno
import json
import logging
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from containers.runtime.archives.archive import digest_of, write_archive
from containers.runtime.errors import ContainerError
from containers.runtime.training.training_input import Task
from contracts import patterns
from contracts.documents import to_bytes
from contracts.errors import MalformedDocumentError
from contracts.limits import (
    CARD_BYTES,
    FILE_BYTES,
    FILES_BYTES,
    FORMAT,
    MAX_FILES,
    OUTCOME_BYTES,
    REASON_CHARACTERS,
)
from contracts.outcomes import FileDigest, Outcome

_log = logging.getLogger(__name__)


class UnusableResultError(ContainerError, ValueError):
    """A family's result for a task cannot be stored; the message names the fault."""


@dataclass(frozen=True)
class Spent:
    """Time spent on a task, in seconds of the clock and of the processor."""

    seconds: float
    cpu_seconds: float


class Checkpoints:
    """The outcomes of one job, for one family, below one folder."""

    def __init__(self, folder: Path, workload: str, family: str) -> None:
        self._folder = folder
        self._workload = workload
        self._family = family

    def archive_path(self, task: Task) -> Path:
        """The path of a succeeded task's archive."""
        return self._folder / task.tenant / f"{task.version}.tar.gz"

    def outcome_path(self, task: Task) -> Path:
        """The path of an ended task's outcome."""
        return self._folder / task.tenant / f"{task.version}.json"

    def files_folder(self, task: Task) -> Path:
        """The folder of a succeeded task's files besides its archive."""
        return self._folder / task.tenant / task.version

    def existing(self, task: Task) -> Outcome | None:
        """The outcome that an earlier run of this job left for `task`, or None without a valid one.

        An outcome is valid when it names this very task. After a success, its archive and files
        must also be present, byte for byte.
        """
        try:
            with self.outcome_path(task).open("rb") as file:
                outcome = Outcome.parse(file.read(OUTCOME_BYTES + 1))
        except FileNotFoundError:
            return None
        except (OSError, MalformedDocumentError):
            _log.warning(
                "outcome_unreadable tenant=%s version=%s: the task is done again",
                task.tenant,
                task.version,
            )
            return None
        of = (outcome.task, outcome.tenant, outcome.version)
        if of != (task.task, task.tenant, task.version):
            return None
        if outcome.status == "failed":
            return outcome
        stored = {self.archive_path(task): outcome.archive} | {
            self.files_folder(task) / name: digest for name, digest in outcome.files.items()
        }
        if all(path.is_file() and digest_of(path) == digest for path, digest in stored.items()):
            return outcome
        _log.warning(
            "archive_differs tenant=%s version=%s: the task is done again",
            task.tenant,
            task.version,
        )
        return None

    def succeeded(
        self,
        task: Task,
        folder: Path,
        metrics: Mapping[str, float],
        card: Mapping[str, Any],
        preview: Mapping[str, Any],
        files: Mapping[str, Path],
        spent: Spent,
        workspace: Path,
    ) -> Outcome:
        """Archive `folder` with its card, put files, archive and outcome in place, and return the
        outcome.

        `files` maps each new name to a file, which is moved. Raises `UnusableResultError` for
        metrics that are not finite numbers, a card that is not JSON or too large, and files whose
        names, number or sizes are not allowed. A folder that cannot be archived raises
        `RefusedArchiveError` or `OSError`. After an error nothing was put in place.
        """
        numbers = _finite(metrics)
        own_card = _json_value(card, "card")
        digests = _digests(files)
        full_card = {
            **own_card,
            "format": FORMAT,
            "family": self._family,
            "workload": self._workload,
            "tenant": task.tenant,
            "version": task.version,
            **({"trace_id": task.trace_id} if task.trace_id else {}),
            "metrics": numbers,
        }
        card_bytes = to_bytes(full_card)
        if len(card_bytes) > CARD_BYTES:
            raise UnusableResultError(f"the card is larger than {CARD_BYTES} bytes")
        temporary = workspace / "archive.tar.gz"
        digest = write_archive(folder, temporary, {"card.json": card_bytes})
        outcome = Outcome(
            task.task,
            task.tenant,
            task.version,
            "succeeded",
            round(spent.seconds, 6),
            round(spent.cpu_seconds, 6),
            archive=digest,
            metrics=numbers,
            card=own_card,
            files=digests,
        )
        outcome, content = _with_preview(outcome, preview)
        # An interrupted run may have left files with other names.
        shutil.rmtree(self.files_folder(task), ignore_errors=True)
        for name, path in files.items():
            _move(path, self.files_folder(task) / name)
        _move(temporary, self.archive_path(task))
        self._put_outcome(task, content, workspace)
        return outcome

    def failed(
        self, task: Task, reason: str, *, retryable: bool, spent: Spent, workspace: Path
    ) -> Outcome:
        """Put the outcome of a task that failed in place, and return it."""
        outcome = Outcome(
            task.task,
            task.tenant,
            task.version,
            "failed",
            round(spent.seconds, 6),
            round(spent.cpu_seconds, 6),
            reason=_sentence(reason),
            retryable=retryable,
        )
        # An interrupted run may have left files and an archive without an outcome.
        shutil.rmtree(self.files_folder(task), ignore_errors=True)
        self.archive_path(task).unlink(missing_ok=True)
        self._put_outcome(task, to_bytes(outcome.document()), workspace)
        return outcome

    def _put_outcome(self, task: Task, content: bytes, workspace: Path) -> None:
        temporary = workspace / "outcome.json"
        temporary.write_bytes(content)
        _move(temporary, self.outcome_path(task))


def _with_preview(outcome: Outcome, preview: Mapping[str, Any]) -> tuple[Outcome, bytes]:
    """The outcome and its bytes, with `preview` if it is JSON and fits; raises
    `UnusableResultError` when it is too large even without the preview."""
    try:
        whole = replace(outcome, preview=_json_value(preview, "preview"))
        content = to_bytes(whole.document())
        if len(content) <= OUTCOME_BYTES:
            return whole, content
        problem = f"the outcome would be {len(content)} bytes"
    except UnusableResultError as error:
        problem = str(error)
    _log.warning(
        "preview_dropped tenant=%s version=%s: %s", outcome.tenant, outcome.version, problem
    )
    content = to_bytes(outcome.document())
    if len(content) > OUTCOME_BYTES:
        raise UnusableResultError(f"metrics and card are larger than {OUTCOME_BYTES} bytes")
    return outcome, content


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise UnusableResultError(f"metric {name} is not a number") from error
        if not math.isfinite(number):
            raise UnusableResultError(f"metric {name} is {number}, not a finite number")
        numbers[str(name)] = number
    return numbers


def _digests(files: Mapping[str, Path]) -> dict[str, FileDigest]:
    """Size and hash of each file by its name; raises `UnusableResultError` for names, numbers and
    sizes that are not allowed."""
    if len(files) > MAX_FILES:
        raise UnusableResultError(
            f"there are {len(files)} files beside the archive; at most {MAX_FILES} are taken"
        )
    digests: dict[str, FileDigest] = {}
    for name, path in files.items():
        if not patterns.FILE.fullmatch(name):
            raise UnusableResultError(
                f"{ascii(name)[:120]} is no file's name of up to 100 of a-z, 0-9 and ._-"
            )
        if path.is_symlink() or not path.is_file():
            raise UnusableResultError(f"{name} is not a plain file; links and devices are refused")
        if path.stat().st_size > FILE_BYTES:
            raise UnusableResultError(
                f"{name} has {path.stat().st_size} bytes; at most {FILE_BYTES} are taken"
            )
        digests[name] = digest_of(path)
    if sum(digest.bytes for digest in digests.values()) > FILES_BYTES:
        raise UnusableResultError(
            f"the files beside the archive have more than {FILES_BYTES} bytes together"
        )
    return digests


def _json_value(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`value` as plain JSON values; arrays and scalars of numpy become lists and numbers."""
    try:
        plain = json.loads(json.dumps(dict(value), allow_nan=False, default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableResultError(f"the {name} is not JSON: {error}") from error
    if not isinstance(plain, dict):
        raise UnusableResultError(f"the {name} is not a JSON object")
    return plain


def _plain(value: Any) -> Any:
    tolist = getattr(value, "tolist", None)
    if tolist is None:
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return tolist()


def _sentence(reason: str) -> str:
    """A reason as one bounded line of text."""
    line = re.sub(r"\s+", " ", reason).strip() or "the family gave no reason"
    line = line.encode("utf-8", "replace").decode()
    return line if len(line) <= REASON_CHARACTERS else line[: REASON_CHARACTERS - 1] + "…"


def _move(source: Path, target: Path) -> None:
    """Rename `source` to `target` atomically, also when they lie on different file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.parent / f".{target.name}.partial"
        shutil.copyfile(source, beside)
        beside.replace(target)
