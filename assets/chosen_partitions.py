"""One Dagster run for any set of tenants: each gets its own planned event, materialisation, checks and failure.

Dagster itself knows runs of one partition and of contiguous ranges. For a chosen set this module reports the planned events
itself, through a part of Dagster that is not public; `tests/test_chosen_partitions.py` notices when that changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    MetadataValue,
    OpExecutionContext,
)
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

from assets.plots import as_markdown
from assets.report import AssetName
from resources import keys

ALIVE_TAG: Final = "tenantry/alive"
ALIVE_EVERY_SECONDS: Final = 5.0


def asset_key(workload: str, asset: str) -> AssetKey:
    """The key of a workload's asset, ``energy/training_data``."""
    return AssetKey([workload, asset])


def plan(context: OpExecutionContext, assets: Iterable[AssetKey], tenants: Sequence[keys.TenantId]) -> None:
    """Show these tenants as in progress; those without a materialisation when the run has failed show as failed.

    A run that has partition keys of its own was planned by Dagster; for such a run this does nothing.
    """
    if context.has_partition_key or context.has_partition_key_range:
        return
    for asset in assets:
        for tenant in tenants:
            event = DagsterEvent.build_asset_materialization_planned_event(
                context.job_name,
                context.get_step_execution_context().step.key,
                AssetMaterializationPlannedData(asset, partition=tenant, partitions_subset=None),
            )
            context.instance.report_dagster_event(event, context.run.run_id)


def outputs_are_reported_already(context: AssetExecutionContext) -> None:
    """Let a step end without yielding its outputs, as its tenants' materialisations were reported one by one.

    Opening a Pipes session makes Dagster insist that every output be yielded; a yielded one would mark every partition of the
    run as materialised, the failed ones too.
    """
    step = context.op_execution_context.get_step_execution_context()
    step._requires_typed_event_stream = False


class RunReport:
    """Reports outcomes into a Dagster run, each at once."""

    def __init__(self, context: OpExecutionContext, workload: str) -> None:
        self._context = context
        self._workload = workload

    def materialized(
        self, asset: AssetName, tenant: keys.TenantId, metadata: Mapping[str, Any], data_version: str
    ) -> None:
        """A tenant's asset exists now."""
        event = AssetMaterialization(
            asset_key=asset_key(self._workload, asset),
            partition=tenant,
            metadata={name: _metadata_value(name, value) for name, value in metadata.items()},
            tags={DATA_VERSION_TAG: data_version},
        )
        self._context.log_event(event)

    def checked(
        self, asset: AssetName, check: str, tenant: keys.TenantId, metadata: Mapping[str, Any], *, passed: bool
    ) -> None:
        """A tenant's asset was looked at. A failed check warns: the tenant's own outcome says what it led to."""
        event = AssetCheckEvaluation(
            asset_key=asset_key(self._workload, asset),
            check_name=check,
            passed=passed,
            metadata={name: _metadata_value(name, value) for name, value in metadata.items()},
            severity=AssetCheckSeverity.WARN,
            partition=tenant,
        )
        self._context.log_event(event)  # type: ignore[arg-type]  # its signature names three of the four events it takes

    def failed(self, asset: AssetName, tenant: keys.TenantId, reason: str) -> None:
        """A tenant's asset could not be made. The reason is logged, and observed on the tenant's partition."""
        self._context.log.error(f"{tenant}: no {asset}: {reason}")
        key = asset_key(self._workload, asset)
        self._context.log_event(AssetObservation(key, partition=tenant, metadata={"reason": reason}))

    def flush(self) -> None:
        """Every event was handed on at once: there is nothing left to do."""

    def info(self, message: str) -> None:
        """Something worth knowing."""
        self._context.log.info(message)


def _metadata_value(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return MetadataValue.md(as_markdown(value, name))
    if isinstance(value, float):
        return round(value, 8)  # of eight digits after the point nobody misses the ninth
    if isinstance(value, str) and value.startswith(("https://", "http://")):
        return MetadataValue.url(value)
    if isinstance(value, Mapping | list | tuple):
        return MetadataValue.json(dict(value) if isinstance(value, Mapping) else list(value))
    return value


@contextmanager
def signs_of_life(context: OpExecutionContext) -> Iterator[None]:
    """Tag the run with the time every few seconds while the block runs.

    Dagster's default launcher cannot tell a killed run from a slow one; the launcher sensor can, by this tag's age.
    """
    stopped = threading.Event()
    instance, run_id = context.instance, context.run.run_id

    def tell() -> None:
        while not stopped.wait(ALIVE_EVERY_SECONDS):
            instance.add_run_tags(run_id, {ALIVE_TAG: f"{time.time():.0f}"})

    instance.add_run_tags(run_id, {ALIVE_TAG: f"{time.time():.0f}"})
    thread = threading.Thread(target=tell, name="signs-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
