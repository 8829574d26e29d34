"""Shows operators' actions on the command line in Dagster."""

from typing import Any, Final

from dagster import (
    AssetMaterialization,
    AssetObservation,
    DefaultSensorStatus,
    SensorDefinition,
    SensorEvaluationContext,
    SkipReason,
    sensor,
)

from orchestration.private_dagster.chosen_partitions import (
    asset_key,
    metadata_of_tenant,
    metadata_value,
)
from orchestration.private_dagster.names import DATA_VERSION_TAG
from orchestration.sensors.ticks import SHOW_SECONDS
from resources.tenantry_resource import TenantryResource
from tenantry.shown import operator_events

_EVENTS_A_TICK: Final = 100


def operator_events_sensor() -> SensorDefinition:
    """``operator_events``, over all workloads."""

    @sensor(
        name="operator_events",
        minimum_interval_seconds=SHOW_SECONDS,
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
            except Exception:  # a broken row does not hide those behind it
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

    return show_operator_events


def _as_asset_event(left: operator_events.LeftEvent) -> AssetMaterialization | AssetObservation:
    """An operator's event as Dagster shows it. Raises ``MalformedEventError``."""
    event = left.event
    said = {**event.metadata, "at": f"{left.left:%Y-%m-%d %H:%M:%S} UTC"}
    about: dict[str, Any] = {
        "asset_key": asset_key(event.workload, event.asset),
        "partition": event.tenant,
        "metadata": (
            {name: metadata_value(name, value) for name, value in said.items()}
            if event.tenant is None
            else metadata_of_tenant(event.tenant, said)
        ),
    }
    if event.kind == "observation":
        return AssetObservation(**about)
    tags = {DATA_VERSION_TAG: event.data_version} if event.data_version else {}
    return AssetMaterialization(**about, tags=tags)
