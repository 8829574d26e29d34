"""Makes and updates endpoints and their capacity as the YAML says."""

from collections.abc import Mapping

from dagster import AssetSelection, AutomationConditionSensorDefinition, DefaultSensorStatus

from assets.endpoint_capacity import capacity_keys
from assets.serving_endpoints import endpoint_keys
from tenantry.workloads.schema import Workload


def endpoints_follow_the_yaml_sensor(
    workloads: Mapping[str, Workload],
) -> AutomationConditionSensorDefinition:
    """``endpoints_follow_the_yaml``, over all workloads."""
    return AutomationConditionSensorDefinition(
        "endpoints_follow_the_yaml",
        target=AssetSelection.assets(
            *(
                key
                for workload in workloads.values()
                for key in (*endpoint_keys(workload), *capacity_keys(workload))
            )
        ),
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Brings each workload's endpoints into service, registers their capacity, and "
        "updates both when the YAML changes.",
    )
