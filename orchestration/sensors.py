"""What happens by itself: uploads become requests, requests become packs, lost events are found,
failures are told."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial, reduce
from operator import or_
from typing import Any, Final, NamedTuple

from dagster import (
    AssetMaterialization,
    AssetObservation,
    AutomationConditionSensorDefinition,
    DefaultSensorStatus,
    RunFailureSensorContext,
    RunRequest,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    run_failure_sensor,
    sensor,
)

from assets.workload_assets import endpoint_selection
from orchestration.jobs import WorkloadJobs
from orchestration.launcher import fail_lost_runs, runs_to_request
from orchestration.overdue import GivenUp, Look, overdue
from orchestration.partitions import add_tenants
from orchestration.private_dagster.chosen_partitions import asset_key, metadata_value
from orchestration.private_dagster.names import DATA_VERSION_TAG
from orchestration.schedules import scheduled_of
from resources.tenantry_resource import TenantryResource
from tenantry.aws.notices import tell_operators
from tenantry.requests.queue import RequestQueue
from tenantry.serving import asynchronous
from tenantry.shown import operator_events
from tenantry.tenants.wind_down import left_behind, note_workloads
from tenantry.uploads import intake
from tenantry.workloads.schema import Workload

# with its last handful a tick stays under five, whatever waits in the queue
_DRAIN_SECONDS: Final = 2.5
_TICK_SECONDS: Final = 5
_RECONCILE_SECONDS: Final = 60
_OVERDUE_SECONDS: Final = 30
# a listing costs one call for a thousand objects, whoever they belong to
_GRACES_BETWEEN_LISTINGS: Final = 4
_EVENTS_A_TICK: Final = 100
_LISTING_SECONDS: Final = 3.0  # of one tick; a listing goes on in the next


class UploadsNotTakenInError(RuntimeError):
    """Not one of the uploads whose events came could be taken in; the code server's log says why.
    Their events stay."""


class WorkloadsLeftBehindError(RuntimeError):
    """A workload's YAML is gone while something of it is left; the message says what, and what to
    do."""


class _Look(NamedTuple):
    """What a tick of ``lost_uploads`` lists: uploads of these moments, after this key. Its cursor
    is the next one.

    ``again``: something of this listing could not be taken in, so that all of it is listed once
    more.
    """

    since: datetime
    until: datetime
    after: str
    again: bool = False

    @classmethod
    def parse(cls, cursor: str | None, grace: timedelta) -> "_Look":
        """From the cursor; the very first look is at everything."""
        if not cursor:
            return cls(datetime.min.replace(tzinfo=UTC), datetime.now(UTC) - grace, "")
        found = json.loads(cursor)
        until = (
            datetime.fromisoformat(found["until"]) if found["until"] else datetime.now(UTC) - grace
        )
        return cls(
            datetime.fromisoformat(found["since"]), until, found["after"], found.get("again", False)
        )

    def followed_by(self, after: str | None, grace: timedelta, *, failed: bool) -> str:
        """The cursor of the next look: further on in this listing, or, after its end, at what was
        uploaded since.

        Args:
            after: where this look ended; None at the end of the listing.
            grace: as much is looked at twice.
            failed: whether something could not be taken in.
        """
        again = self.again or failed
        if after is not None:
            return json.dumps(
                {
                    "since": self.since.isoformat(),
                    "until": self.until.isoformat(),
                    "after": after,
                    "again": again,
                }
            )
        since = self.since if again else self.until - grace
        return json.dumps({"since": since.isoformat(), "until": "", "after": ""})


def sensors_of(
    workloads: Mapping[str, Workload],
    jobs: Mapping[str, WorkloadJobs],
    lost_uploads_grace: timedelta,
) -> Sequence[SensorDefinition]:
    """All sensors; all run by default.

    Args:
        workloads: what the product offers.
        jobs: each workload's.
        lost_uploads_grace: how long an event is given before its upload counts as lost; as much is
            looked at twice.
    """

    @sensor(
        name="new_uploads",
        minimum_interval_seconds=_TICK_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Takes finished uploads off the SQS queue that S3 fills: each becomes a "
        "request, or a refusal with its reason.",
    )
    def new_uploads(context: SensorEvaluationContext, tenantry: TenantryResource) -> SkipReason:
        done = intake.drain_queue(
            tenantry.deployment,
            workloads,
            partial(add_tenants, context.instance),
            max_seconds=_DRAIN_SECONDS,
        )
        for key, reason in done.refused:
            context.log.warning(f"refused {key}: {reason}")
        if done.failed and not (done.accepted or done.repeated or done.refused):
            raise UploadsNotTakenInError(str(done))
        return SkipReason(str(done) if done.messages else "no new uploads")

    @sensor(
        name="lost_uploads",
        minimum_interval_seconds=min(_RECONCILE_SECONDS, int(lost_uploads_grace.total_seconds())),
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Lists what was uploaded since the last look, for uploads whose event never "
        "came.",
    )
    def lost_uploads(context: SensorEvaluationContext, tenantry: TenantryResource) -> SkipReason:
        look = _Look.parse(context.cursor, lost_uploads_grace)
        if (
            not look.after
            and look.until - look.since < _GRACES_BETWEEN_LISTINGS * lost_uploads_grace
        ):
            return SkipReason(
                f"uploads were listed up to {look.since + lost_uploads_grace:%H:%M:%S}; not yet "
                f"again"
            )
        listing = intake.find_lost_uploads(
            tenantry.deployment,
            workloads,
            partial(add_tenants, context.instance),
            since=look.since,
            until=look.until,
            after=look.after,
            max_seconds=_LISTING_SECONDS,
        )
        done = listing.done
        context.update_cursor(
            look.followed_by(listing.after, lost_uploads_grace, failed=done.failed > 0)
        )
        return SkipReason(
            f"{done.messages} uploads looked at: {done.accepted} had been lost, "
            f"{len(done.refused)} refused"
            + (f", {done.failed} could not be taken in and are listed again" if done.failed else "")
            + (f"; goes on after {listing.after}" if listing.after else "")
        )

    @sensor(
        name="fine_tuning_launcher",
        minimum_interval_seconds=_TICK_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        jobs=[jobs[name].fine_tuning for name in workloads],
        description="Claims due requests, packs them, and asks for one run per pack; takes up "
        "packs whose run died, and fails lost runs.",
    )
    def fine_tuning_launcher(
        context: SensorEvaluationContext, tenantry: TenantryResource
    ) -> Iterator[RunRequest | SkipReason]:
        fail_lost_runs(context.instance, tenantry.lost_run_seconds)
        queue = RequestQueue(tenantry.deployment, by="sensor fine_tuning_launcher")
        asked, troubles = 0, list[Exception]()
        for workload in workloads.values():
            try:
                for request in runs_to_request(
                    context.instance, queue, workload, lost_run_seconds=tenantry.lost_run_seconds
                ):
                    asked += 1
                    yield request
            except Exception as error:  # one workload's trouble must not hold up the others
                context.log.exception(
                    f"the requests of {workload.name} could not be looked at; trying again next "
                    f"tick"
                )
                troubles.append(error)
        if troubles and not asked:
            raise troubles[0]
        if not asked:
            yield SkipReason(
                "nothing is due, all packs that may run at once are running, or the workloads are "
                "paused"
            )

    @sensor(
        name="asynchronous_failures",
        minimum_interval_seconds=_TICK_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Brings failures of asynchronous requests, which SageMaker puts in one place, "
        "each to its own tenant.",
    )
    def asynchronous_failures(
        context: SensorEvaluationContext, tenantry: TenantryResource
    ) -> SkipReason:
        delivered = asynchronous.deliver_failures(tenantry.deployment)
        for failure in delivered:
            context.log.warning(f"{failure.workload}, {failure.tenant}: {failure.reason}")
        return SkipReason(
            f"{len(delivered)} failures delivered"
            if delivered
            else "no asynchronous request failed"
        )

    @sensor(
        name="operator_events",
        minimum_interval_seconds=_TICK_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Shows what operators did from the command line, on their tenants' partitions.",
    )
    def show_operator_events(
        context: SensorEvaluationContext, tenantry: TenantryResource
    ) -> SkipReason:
        shown = 0
        for left in operator_events.waiting(tenantry.deployment, _EVENTS_A_TICK):
            try:
                event = _as_asset_event(left)
            except Exception:  # whatever a row holds, those behind it are shown
                context.log.exception(f"{left.key.sort[:80]} cannot be shown; it is left out")
            else:
                context.instance.report_runless_asset_event(event)
                shown += 1
            operator_events.forget(tenantry.deployment, left)
        return SkipReason(
            f"shown: {shown} changes that operators made"
            if shown
            else "no operator did anything new"
        )

    scheduled = [
        each for name, workload in workloads.items() for each in scheduled_of(workload, jobs[name])
    ]

    @sensor(
        name="lost_scheduled_runs",
        minimum_interval_seconds=_OVERDUE_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        jobs=list({each.job.name: each.job for each in scheduled}.values()),
        description="Asks again for what a schedule asked for when its run never came, was killed, "
        "or could not be launched.",
    )
    def lost_scheduled_runs(
        context: SensorEvaluationContext, tenantry: TenantryResource
    ) -> Iterator[RunRequest | SkipReason]:
        now = datetime.now(UTC)
        look = Look.parse(context.cursor, now)
        asked = 0
        for found in overdue(context.instance, scheduled, look, now):
            if isinstance(found, GivenUp):
                what = (
                    f"{found.scheduled.job.name} of {found.moment:%Y-%m-%d %H:%M %Z} was lost "
                    f"{found.runs} times"
                )
                context.log.error(what)
                tell_operators(
                    tenantry.deployment,
                    f"{found.scheduled.workload}: a scheduled run was given up",
                    f"{what}, and is not asked for again. Launch it by hand when what killed it is "
                    f"mended.",
                )
            else:
                asked += 1
                yield found
        context.update_cursor(look.cursor())
        if not asked:
            yield SkipReason("everything scheduled has run, runs, or is given time to")

    @sensor(
        name="workloads_left_behind",
        minimum_interval_seconds=_RECONCILE_SECONDS,
        default_status=DefaultSensorStatus.RUNNING,
        target=None,
        description="Fails while a workload whose YAML was removed has open requests or endpoints, "
        "and says what to do.",
    )
    def workloads_left_behind(tenantry: TenantryResource) -> SkipReason:
        note_workloads(tenantry.deployment, workloads)
        left = left_behind(tenantry.deployment, workloads)
        if left:
            raise WorkloadsLeftBehindError("\n".join(map(str, left)))
        return SkipReason("nothing is left of a workload that is offered no more")

    @run_failure_sensor(
        name="failed_runs",
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Tells the operators of every run that failed.",
    )
    def failed_runs(context: RunFailureSensorContext, tenantry: TenantryResource) -> None:
        run = context.dagster_run
        message = context.failure_event.message or "no message"
        details = json.dumps(
            {"run": run.run_id, "job": run.job_name, "tags": dict(run.tags)}, indent=1
        )
        tell_operators(
            tenantry.deployment, f"{run.job_name} failed", f"{message[:4000]}\n\n{details[:8000]}"
        )

    automation = AutomationConditionSensorDefinition(
        "endpoints_follow_the_yaml",
        target=reduce(or_, (endpoint_selection(workload) for workload in workloads.values())),
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Brings each workload's endpoint into service, and updates it when its YAML "
        "changes.",
    )
    return [
        new_uploads,
        lost_uploads,
        fine_tuning_launcher,
        asynchronous_failures,
        show_operator_events,
        lost_scheduled_runs,
        workloads_left_behind,
        failed_runs,
        automation,
    ]


def _as_asset_event(left: operator_events.LeftEvent) -> AssetMaterialization | AssetObservation:
    """An operator's event as Dagster shows it. Raises ``MalformedEventError``."""
    event = left.event
    metadata = {name: metadata_value(name, value) for name, value in event.metadata.items()}
    about: dict[str, Any] = {
        "asset_key": asset_key(event.workload, event.asset),
        "partition": event.tenant,
        "metadata": {**metadata, "at": f"{left.left:%Y-%m-%d %H:%M:%S} UTC"},
    }
    if event.kind == "observation":
        return AssetObservation(**about)
    tags = {DATA_VERSION_TAG: event.data_version} if event.data_version else {}
    return AssetMaterialization(**about, tags=tags)
