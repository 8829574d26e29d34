"""Endpoints are made and updated as their YAML says."""

from collections.abc import Mapping
from functools import reduce
from operator import or_

from dagster import AutomationConditionSensorDefinition, DefaultSensorStatus

from assets.serving_endpoints import endpoint_selection
from tenantry.workloads.schema import Workload


def endpoints_follow_the_yaml_sensor(
    workloads: Mapping[str, Workload],
) -> AutomationConditionSensorDefinition:
    """``endpoints_follow_the_yaml``, over what the product offers."""
    return AutomationConditionSensorDefinition(
        "endpoints_follow_the_yaml",
        target=reduce(or_, (endpoint_selection(workload) for workload in workloads.values())),
        default_status=DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Brings each workload's endpoint into service, and updates it when its YAML "
        "changes.",
    )
