"""The messages of a training job while it runs."""

from __future__ import annotations

from typing import Any, Final

from contracts.outcomes import Outcome

_STARTED: Final = "task_started"
_PROGRESS: Final = "task_progress"
_FINISHED: Final = "task_finished"


def task_started(task: str, tenant: str, version: str) -> dict[str, Any]:
    """A task is begun."""
    return {"event": _STARTED, "task": task, "tenant": tenant, "version": version}


def task_progress(task: str, step: int, steps: int) -> dict[str, Any]:
    """A task of a batch that is trained in steps is at ``step`` of ``steps``."""
    return {"event": _PROGRESS, "task": task, "step": step, "steps": steps}


def task_finished(outcome: Outcome) -> dict[str, Any]:
    """A task has ended."""
    return {"event": _FINISHED, "outcome": outcome.document()}


def outcome_of(message: Any) -> Outcome | None:
    """The outcome in a message; None for a message about something else.

    Raises:
        MalformedDocumentError: it claims to hold one and does not.
    """
    if not isinstance(message, dict) or message.get("event") != _FINISHED:
        return None
    return Outcome.of_value(message.get("outcome"))
