"""One Dagster run for any set of tenants: each gets its own planned event, materialisation, checks
and failure.

Dagster itself knows runs of one partition and of contiguous ranges. For a chosen set this module
writes the events itself, many at a time, through a part of Dagster that is not public;
`tests/orchestration/private_dagster/test_chosen_partitions.py` notices when that changes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from types import TracebackType
from typing import Any, Final, Self

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    MetadataValue,
    OpExecutionContext,
    TableRecord,
)
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.events import (
    BATCH_WRITABLE_EVENTS,
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEvent,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry

from tenantry.names import ids
from tenantry.shown.plots import as_markdown
from tenantry.shown.report import AssetName, Markdown, Table

EVENTS_WITHIN_SECONDS: Final = 1.0
"""How long an event may wait to be written with others."""
_MAX_EVENTS: Final = 500  # that wait
_NOT_MADE: Final = "not_made"  # the metadata entry with the reason
FAILURES_OF_TAG: Final = "tenantry/failures_of"
"""On a run that stands for the tenants that failed in another: the other's id."""


def asset_key(workload: str, asset: str) -> AssetKey:
    """The key of a workload's asset, ``energy/training_data``."""
    return AssetKey([workload, asset])


def plan(
    context: OpExecutionContext, assets: Iterable[AssetKey], tenants: Sequence[ids.ModelId]
) -> None:
    """Show these tenants as in progress; those without a materialisation when the run has failed
    show as failed.

    A run that has partition keys of its own was planned by Dagster; for such a run this does
    nothing.
    """
    if context.has_partition_key or context.has_partition_key_range:
        return
    step_key = context.get_step_execution_context().step.key
    planned = [
        DagsterEvent.build_asset_materialization_planned_event(
            context.job_name,
            step_key,
            AssetMaterializationPlannedData(asset, partition=tenant, partitions_subset=None),
        )
        for asset in assets
        for tenant in tenants
    ]
    _store(context.instance, [_entry(event, context.run.run_id) for event in planned])


def failures_job_name(workload: str) -> str:
    """The job name of runs that stand for failed tenants. There is no such job to launch."""
    return f"{workload}_failed_tenants"


def _entry(event: DagsterEvent, run_id: str) -> EventLogEntry:
    return EventLogEntry(  # type: ignore[no-untyped-call]
        error_info=None,
        user_message="",
        level=logging.DEBUG,
        run_id=run_id,
        timestamp=time.time(),
        step_key=event.step_key,
        job_name=event.job_name,
        dagster_event=event,
    )


def _store(instance: DagsterInstance, entries: Sequence[EventLogEntry]) -> None:
    """Write events in as few batches as the event log can take them."""
    storage = instance.event_log_storage
    if getattr(storage, "batches_every_asset_event", False):
        storage.store_event_batch(entries)
        return
    # Dagster's own event logs batch events of one kind, and bring one asset's row up to date for
    # each batch.
    for (_, kind, _), alike in groupby(
        entries, key=lambda e: (e.run_id, e.dagster_event_type, e.get_dagster_event().asset_key)
    ):
        if kind in BATCH_WRITABLE_EVENTS:
            storage.store_event_batch(list(alike))
        else:
            for entry in alike:
                storage.store_event(entry)


def outputs_are_reported_already(context: AssetExecutionContext) -> None:
    """Let a step end without yielding its outputs, as its tenants' materialisations were reported
    one by one.

    After a Pipes session Dagster insists that every output be yielded. A yielded output would mark
    every partition of the run as materialised, even the failed ones.
    """
    step = context.op_execution_context.get_step_execution_context()
    step._requires_typed_event_stream = False


class RunReport:
    """Reports outcomes into a Dagster run: within a second, in batches, from any thread.

    Use it in a ``with`` statement, whose end writes the events that still wait.
    """

    def __init__(self, context: OpExecutionContext, workload: str) -> None:
        self._context = context
        self._workload = workload
        self._instance, self._run_id = context.instance, context.run.run_id
        self._step = context.get_step_execution_context()
        self._failures_run: str | None = None
        self._waiting: list[EventLogEntry] = []
        self._lock = threading.Lock()  # held while writing, so that batches keep their order
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()

    def materialized(
        self, asset: AssetName, tenant: ids.ModelId, metadata: Mapping[str, Any], data_version: str
    ) -> None:
        """A tenant's asset exists now."""
        made = AssetMaterialization(
            asset_key=asset_key(self._workload, asset),
            partition=tenant,
            metadata=metadata_of_tenant(tenant, metadata),
            tags={DATA_VERSION_TAG: data_version},
        )
        self._add(
            DagsterEventType.ASSET_MATERIALIZATION,
            StepMaterializationData(made),
            f"Materialized value {made.label}.",
        )

    def checked(
        self,
        asset: AssetName,
        check: str,
        tenant: ids.ModelId,
        metadata: Mapping[str, Any],
        *,
        passed: bool,
    ) -> None:
        """A tenant's asset was looked at. A failed check only warns: the tenant's own outcome shows
        the consequence."""
        evaluation = AssetCheckEvaluation(
            asset_key=asset_key(self._workload, asset),
            check_name=check,
            passed=passed,
            metadata={name: metadata_value(name, value) for name, value in metadata.items()},
            severity=AssetCheckSeverity.WARN,
            partition=tenant,
        )
        verdict = "passed" if passed else "did not pass"
        self._add(
            DagsterEventType.ASSET_CHECK_EVALUATION,
            evaluation,
            f"Asset check '{check}' of {tenant} {verdict}.",
        )

    def failed(self, asset: AssetName, tenant: ids.ModelId, reason: str) -> None:
        """A tenant's asset could not be made: its partition is failed, and its page says why.

        Dagster calls a partition failed when the run that was to make it has failed, but this run
        goes on for the others. So another run, which has failed, stands for the failed tenants, and
        logs their reasons. A partition's page shows observations after its latest materialisation,
        and nothing at all before the first. So for a tenant without one, the reason comes as a
        materialisation, which the failure outdates at once.
        """
        message = f"{tenant}: no {asset}: {reason}"
        self._context.log.warning(message)
        key = asset_key(self._workload, asset)
        if self._was_ever_materialized(key, tenant):
            self.observed(asset, tenant, {_NOT_MADE: reason}, message)
        else:
            facts = metadata_of_tenant(tenant, {_NOT_MADE: reason})
            self._add(
                DagsterEventType.ASSET_MATERIALIZATION,
                StepMaterializationData(
                    AssetMaterialization(key, partition=tenant, metadata=facts, description=message)
                ),
                message,
            )
        run_id = self._run_of_failures()
        planned = DagsterEvent.build_asset_materialization_planned_event(
            failures_job_name(self._workload),
            self._step.step.key,
            AssetMaterializationPlannedData(key, partition=tenant, partitions_subset=None),
        )
        self._wait(_entry(planned, run_id))
        self._instance.event_log_storage.store_event(self._log_line(message, run_id))

    def _was_ever_materialized(self, key: AssetKey, tenant: ids.ModelId) -> bool:
        of_tenant = AssetRecordsFilter(asset_key=key, asset_partitions=[tenant])
        records = self._instance.fetch_materializations(of_tenant, limit=1).records
        latest = records[0].asset_materialization if records else None
        return latest is not None and _NOT_MADE not in latest.metadata

    def _run_of_failures(self) -> str:
        """The id of the run that stands for the tenants that failed in this one."""
        with self._lock:
            if self._failures_run is None:
                run = DagsterRun(
                    job_name=failures_job_name(self._workload),
                    run_id=str(uuid.uuid4()),
                    status=DagsterRunStatus.FAILURE,
                    tags={FAILURES_OF_TAG: self._run_id, "tenantry/workload": self._workload},
                )
                self._instance.add_run(run)
                self._failures_run = run.run_id
            return self._failures_run

    def _log_line(self, message: str, run_id: str) -> EventLogEntry:
        return EventLogEntry(  # type: ignore[no-untyped-call]
            error_info=None,
            user_message=message,
            level=logging.ERROR,
            run_id=run_id,
            timestamp=time.time(),
            step_key=self._step.step.key,
            job_name=failures_job_name(self._workload),
        )

    def observed(
        self, asset: AssetName, tenant: ids.ModelId, metadata: Mapping[str, Any], message: str
    ) -> None:
        """An event about a tenant's asset that did not make it anew."""
        observed = AssetObservation(
            asset_key(self._workload, asset),
            partition=tenant,
            metadata=metadata_of_tenant(tenant, metadata),
        )
        self._add(DagsterEventType.ASSET_OBSERVATION, AssetObservationData(observed), message)

    def flush(self) -> None:
        """Write the waiting events. They are kept for the next time when they cannot be written."""
        with self._lock:
            entries, self._waiting = self._waiting, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not entries:
                return
            try:
                _store(self._instance, entries)
            except BaseException:
                self._waiting = entries + self._waiting
                raise

    def info(self, message: str) -> None:
        """A message for people."""
        self._context.log.info(message)

    def _add(self, kind: DagsterEventType, data: Any, message: str) -> None:
        event = DagsterEvent(
            event_type_value=kind.value,
            job_name=self._context.job_name,
            step_handle=self._step.step.handle,
            node_handle=self._step.step.node_handle,
            step_kind_value=self._step.step.kind.value,
            logging_tags=self._step.event_tags,
            event_specific_data=data,
            message=message,
            pid=os.getpid(),
        )
        self._wait(_entry(event, self._run_id))

    def _wait(self, entry: EventLogEntry) -> None:
        """Write an event with the next ones: in a second, or when many wait."""
        with self._lock:
            self._waiting.append(entry)
            full = len(self._waiting) >= _MAX_EVENTS
            if not full and self._timer is None:
                self._timer = threading.Timer(EVENTS_WITHIN_SECONDS, self._flush_in_time)
                self._timer.name, self._timer.daemon = "event-writer", True
                self._timer.start()
        if full:
            self.flush()

    def _flush_in_time(self) -> None:
        try:
            self.flush()
        # The next flush, in the step's own thread, tries again and raises.
        except Exception as error:  # noqa: BLE001
            logging.getLogger(__name__).warning(
                "Dagster's events wait: they could not be written: %s", error
            )


def metadata_of_tenant(tenant: ids.ModelId, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as Dagster shows it, the tenant first: an asset's overview shows the latest event of
    any tenant without naming the tenant."""
    shown = {name: metadata_value(name, value) for name, value in metadata.items()}
    return {"tenant": str(tenant), **shown}


def metadata_value(name: str, value: Any) -> Any:
    """A value as Dagster shows it: bytes are a picture, with ``name`` as its alternative text."""
    if isinstance(value, Markdown):
        return MetadataValue.md(str(value))
    if isinstance(value, Table):
        return MetadataValue.table([TableRecord(dict(row)) for row in value.rows])
    if isinstance(value, bytes):
        return MetadataValue.md(as_markdown(value, name))
    if isinstance(value, float):
        return round(value, 8)  # a ninth digit after the point tells people nothing
    if isinstance(value, str) and value.startswith(("https://", "http://")):
        return MetadataValue.url(value)
    if isinstance(value, Mapping | list | tuple):
        return MetadataValue.json(dict(value) if isinstance(value, Mapping) else list(value))
    return value
