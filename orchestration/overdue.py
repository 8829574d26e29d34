"""Asks again for scheduled runs that were lost: none came, or it was killed, or could not be
launched.

A run that ended with a ``Failure`` that names tenants is not lost: another run would end the same
way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final, Self

from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus, RunRecord, RunRequest

from orchestration.private_dagster.names import (
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    get_latest_completed_cron_tick,
)
from orchestration.schedules import Scheduled

MAX_RUNS: Final = 5
"""The most runs of a job for one moment, including the scheduled one."""
_MOST_MADE_UP: Final = 14
"""Of the moments that a schedule has missed; older ones are given up, and the operators told."""
_GRACE: Final = timedelta(minutes=5)  # for the schedule's own request: a busy daemon is late
_FIRST_PAUSE: Final = timedelta(minutes=1)  # after a lost run; doubled after each
_FINISHED: Final = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


@dataclass
class Look:
    """The memory of ``overdue`` from look to look.

    Attributes:
        since: when it first looked; runs due before that do not count as lost.
        awake: since when it has looked without a long pause; after a pause the schedules get time
            to catch up.
        looked: when it last looked.
        settled: the latest moment of each group that needs no more looking at.
    """

    since: datetime
    awake: datetime
    looked: datetime
    settled: dict[str, datetime] = field(default_factory=dict)

    @classmethod
    def parse(cls, cursor: str | None, now: datetime) -> Self:
        """From a sensor's cursor."""
        if not cursor:
            return cls(now, now, now)
        found = json.loads(cursor)
        looked = datetime.fromisoformat(found["looked"])
        awake = now if now - looked > _GRACE else datetime.fromisoformat(found["awake"])
        settled = {
            group: datetime.fromisoformat(moment) for group, moment in found["settled"].items()
        }
        return cls(datetime.fromisoformat(found["since"]), awake, now, settled)

    def cursor(self) -> str:
        """As a sensor keeps it."""
        settled = {group: moment.isoformat() for group, moment in self.settled.items()}
        times = {name: getattr(self, name).isoformat() for name in ("since", "awake", "looked")}
        return json.dumps({**times, "settled": settled})


@dataclass(frozen=True)
class GivenUp:
    """A scheduled job that lost every run of a moment, or (with no runs) of that moment and of
    those before it."""

    scheduled: Scheduled
    moment: datetime
    runs: int


def overdue(
    instance: DagsterInstance, scheduled: Sequence[Scheduled], look: Look, now: datetime
) -> Iterator[RunRequest | GivenUp]:
    """The runs to ask for again now, and those that are given up. Updates ``look``.

    Args:
        instance: where runs and schedules are looked up.
        scheduled: everything that is scheduled.
        look: the state of earlier looks.
        now: this moment.
    """
    started = _started(instance, scheduled)
    for group, members in groupby(
        sorted(scheduled, key=lambda each: each.group), key=lambda each: each.group
    ):
        latest = [(_latest(each, now), each) for each in members if each.name in started]
        if not latest:
            continue
        moment, each = max(latest, key=lambda pair: pair[0])
        first = max(look.since, started[each.name] or look.since)
        if each.each_counts:
            yield from _every_moment(instance, each, look, first, moment, now)
        elif first < moment and look.settled.get(group) != moment:
            yield from _one_moment(instance, each, look, moment, now)


def _every_moment(
    instance: DagsterInstance,
    each: Scheduled,
    look: Look,
    first: datetime,
    latest: datetime,
    now: datetime,
) -> Iterator[RunRequest | GivenUp]:
    """The moments after ``first`` up to ``latest``, the oldest first. One that is not settled yet
    does not hold the later ones up, and is looked at again."""
    settled = max(look.settled.get(each.group, first), first)
    moments = list[datetime]()
    moment = latest
    while moment > settled and len(moments) < _MOST_MADE_UP:
        moments.insert(0, moment)
        moment = _latest(each, moment - timedelta(seconds=1))
    if moment > settled:
        yield GivenUp(each, moment, 0)
    in_order = True
    for moment in moments:
        alone = Look(look.since, look.awake, look.looked)
        yield from _one_moment(instance, each, alone, moment, now)
        in_order = in_order and each.group in alone.settled
        if in_order:
            look.settled[each.group] = moment


def _one_moment(
    instance: DagsterInstance, each: Scheduled, look: Look, moment: datetime, now: datetime
) -> Iterator[RunRequest | GivenUp]:
    if now - max(moment, look.awake) < _GRACE:
        return
    runs = each.runs_of(instance, moment, MAX_RUNS)
    if any(record.dagster_run.status not in _FINISHED for record in runs):
        return
    if runs and not _is_lost(instance, runs):
        look.settled[each.group] = moment
    elif len(runs) >= MAX_RUNS:
        yield GivenUp(each, moment, len(runs))
        look.settled[each.group] = moment
    elif not runs or now - _ended(runs[0]) >= _FIRST_PAUSE * 2 ** (len(runs) - 1):
        yield each.run_at(moment, after=runs[0].dagster_run.run_id if runs else "lost")


def _latest(scheduled: Scheduled, now: datetime) -> datetime:
    return get_latest_completed_cron_tick(scheduled.cron, now, scheduled.timezone)


def _started(
    instance: DagsterInstance, scheduled: Sequence[Scheduled]
) -> Mapping[str, datetime | None]:
    """The schedules that run, and since when; all run by default, and the runs of one that a person
    stopped are not made up for."""
    found: dict[str, datetime | None] = {each.name: None for each in scheduled}
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        if state.instigator_name not in found:
            continue
        if state.status == InstigatorStatus.STOPPED:
            del found[state.instigator_name]
        elif (
            isinstance(data := state.instigator_data, ScheduleInstigatorData)
            and data.start_timestamp
        ):
            found[state.instigator_name] = datetime.fromtimestamp(data.start_timestamp, UTC)
    return found


def _is_lost(instance: DagsterInstance, runs: Sequence[RunRecord]) -> bool:
    """Whether none of the finished runs, newest first, succeeded or said itself why it could
    not."""
    newest = runs[0].dagster_run
    if any(record.dagster_run.status == DagsterRunStatus.SUCCESS for record in runs):
        return False
    if newest.status == DagsterRunStatus.CANCELED:
        return False  # a person's decision
    failures = instance.get_records_for_run(
        newest.run_id, of_type=DagsterEventType.STEP_FAILURE
    ).records
    return not any(
        (event := record.event_log_entry.dagster_event)
        and event.step_failure_data.user_failure_data
        for record in failures
    )


def _ended(record: RunRecord) -> datetime:
    if record.end_time is None:
        return record.update_timestamp.replace(tzinfo=UTC)
    return datetime.fromtimestamp(record.end_time, UTC)
