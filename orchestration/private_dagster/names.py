"""Names of Dagster's private API that the rest of ``orchestration`` uses. docs/private-dagster.md
has the purpose of each."""

from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.scheduler.instigation import InstigatorStatus, ScheduleInstigatorData
from dagster._core.storage.tags import PRIORITY_TAG
from dagster._utils.schedules import get_latest_completed_cron_tick

__all__ = [
    "DATA_VERSION_TAG",
    "PRIORITY_TAG",
    "InstigatorStatus",
    "InstigatorType",
    "ScheduleInstigatorData",
    "UnresolvedAssetJobDefinition",
    "get_latest_completed_cron_tick",
]
