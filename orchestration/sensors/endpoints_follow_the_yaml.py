"""Makes and updates endpoints as their YAML says."""

from collections.abc import Mapping

from dagster import AssetSelection, AutomationConditionSensorDefinition, DefaultSensorStatus

from assets.serving_endpoints import endpoint_keys
from tenantry.workloads.schema import Workload


def endpoints_follow_the_yaml_sensor(
    workloads: Mapping[str, Workload],
) -> AutomationConditionSensorDefinition:
    """``endpoints_follow_the_yaml``, over all workloads."""
    return AutomationConditionSensorDefinition(
        "endpoints_follow_the_yaml",
        target=AssetSelection.assets(
            *(key for workload in workloads.values() for key in endpoint_keys(workload))
        ),
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Brings each workload's endpoint into service, and updates it when its YAML "
        "changes.",
    )
