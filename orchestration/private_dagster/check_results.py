"""The latest result of asset checks, of every partition at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dagster import AssetCheckKey, DagsterInstance

_PASSED: Final[Mapping[str, bool]] = {"SUCCEEDED": True, "FAILED": False}


def latest_results(
    instance: DagsterInstance, checks: Sequence[AssetCheckKey]
) -> Mapping[AssetCheckKey, Mapping[str, bool]]:
    """Whether each partition passed each check, the last time that it was asked.

    Costs a query a check. The public ways read one partition a query, or a history that is as long
    as all partitions' together. A check whose run has not come to it yet is left out.
    """
    found: dict[AssetCheckKey, dict[str, bool]] = {check: {} for check in checks}
    for info in instance.event_log_storage.get_asset_check_partition_info(list(checks)):
        passed = _PASSED.get(info.latest_execution_status.value)
        if info.partition_key is not None and passed is not None:
            found[info.check_key][info.partition_key] = passed
    return found
