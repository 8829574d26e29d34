"""The metrics of endpoints' instances: one sample an instance and minute.

Source: docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html ("Jobs and endpoint
metrics"): CPUUtilization and GPUUtilization are sums over cores and GPUs, so 100 is one of them.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.fleet import Variant
from local_sagemaker.endpoints.instances import Instance
from local_sagemaker.monitoring.endpoint_metrics import INSTANCES
from local_sagemaker.processes.usage import Gpu, Usage, folder_bytes, gpus, usage_by_container

_log = logging.getLogger(__name__)
_MINUTE = 60
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class _Sample:
    """An instance's latest: its minute, the machine's ticks then, and its CPU time."""

    minute: int
    moment: float
    cpu_seconds: float


class HostMetrics:
    """Samples each instance once in every minute that it serves in: early in the minute, or as soon
    as it is healthy. `now` is the time of the metrics, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._latest: dict[Instance, _Sample] = {}

    async def watch(self, serving: Callable[[], Iterable[Variant]]) -> None:
        """Sample the instances of the variants that serve, until cancelled."""
        while True:
            try:
                await self._sample(
                    {one: variant for variant in serving() for one in variant.instances}
                )
            except Exception:  # noqa: BLE001 - the next samples are taken nevertheless
                _log.exception("host metrics")
            await MACHINE.sleep(_LOOK_SECONDS)

    async def _sample(self, serving: dict[Instance, Variant]) -> None:
        self._latest = {one: taken for one, taken in self._latest.items() if one in serving}
        minute = self._now() // _MINUTE
        due = [
            one for one in serving if one not in self._latest or self._latest[one].minute != minute
        ]
        if not due:
            return
        usages, found_gpus, disk = await asyncio.to_thread(_read, due)
        minute = int(self._now() // _MINUTE)  # which may have passed meanwhile
        for instance in due:
            latest = self._latest.get(instance)
            usage = usages.get(instance.token)
            if usage is None or (latest is not None and latest.minute == minute):
                continue
            taken = _Sample(minute, MACHINE.ticks(), usage.cpu_seconds)
            moment, cpu_seconds = (
                (latest.moment, latest.cpu_seconds) if latest else (instance.started, 0.0)
            )
            values = {
                "CPUUtilization": 100
                * max(taken.cpu_seconds - cpu_seconds, 0.0)
                / (taken.moment - moment),
                "MemoryUtilization": 100 * usage.memory_bytes / psutil.virtual_memory().total,
                "DiskUtilization": disk[instance],
                **_of_gpus(usage, found_gpus),
            }
            self._latest[instance] = taken
            for name, value in values.items():
                serving[instance].record(name, value, "Percent", INSTANCES)
            serving[instance].record_loaded_models(instance)
            # Without traffic SageMaker emits zeros, so that scaling in goes on
            # (docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-edit.html).
            serving[instance].record("InvocationsPerInstance", 0.0)


def _read(instances: list[Instance]) -> tuple[dict[str, Usage], list[Gpu], dict[Instance, float]]:
    disk = {
        one: 100 * folder_bytes(one.folder) / shutil.disk_usage(one.folder.parent).total
        for one in instances
    }
    return usage_by_container(), gpus(), disk


def _of_gpus(usage: Usage, found: list[Gpu]) -> dict[str, float]:
    """The metrics of the GPUs that a container uses; nothing on a machine without one."""
    if not found:
        return {}
    used = [gpu for gpu in found if usage.process_ids & gpu.memory_of.keys()]
    return {
        "GPUUtilization": sum(gpu.utilization for gpu in used),
        "GPUMemoryUtilization": sum(
            100 * sum(gpu.memory_of.get(pid, 0.0) for pid in usage.process_ids) / gpu.memory
            for gpu in used
        ),
    }
