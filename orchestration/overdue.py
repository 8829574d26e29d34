"""What a schedule asked for and did not get: its run never came, was killed, or could not be launched. It is asked for again.

A run that ended with a verdict of its own, a ``Failure`` that names the tenants, is not lost: the same would come of it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunRecord, RunRequest, RunsFilter
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus, ScheduleInstigatorData
from dagster._utils.schedules import get_latest_completed_cron_tick

DUE_TAG: Final = "tenantry/due"
"""The moment a run was scheduled for, in UTC."""
MOST_RUNS: Final = 5
"""Of one job for one moment, however each ended."""
_GRACE: Final = timedelta(minutes=5)  # for the schedule itself to ask; a busy daemon is late
_FIRST_PAUSE: Final = timedelta(minutes=1)  # after a lost run; doubled after each


@dataclass(frozen=True)
class Scheduled:
    """What a schedule asks for.

    Attributes:
        schedule: its name.
        job: the name of the job it runs.
        cron: when.
        timezone: of the cron.
        run_config: what it asks for at a moment.
        tags: the run's at a moment, beside ``DUE_TAG``.
        group: schedules of which only the latest moment counts, as each undoes what the one before did.
    """

    schedule: str
    job: str
    cron: str
    timezone: str
    group: str
    run_config: Mapping[str, Any] | None = None
    of_the_day: bool = False


def due_tag(moment: datetime) -> dict[str, str]:
    """The tag of runs that were scheduled for a moment."""
    return {DUE_TAG: moment.astimezone(UTC).isoformat()}
