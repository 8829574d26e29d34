"""The metrics of endpoints' instances: one sample an instance and minute.

Source: docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html ("Jobs and endpoint
metrics"): CPUUtilization and GPUUtilization are sums over cores and GPUs, so 100 is one of them.
An instance's are sums over its containers. With direct invocation, each container has its own too
(…/dg/multi-container-metrics.html).
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
from local_sagemaker.endpoints.serving_containers import ServingContainer
from local_sagemaker.monitoring.endpoint_metrics import INSTANCES
from local_sagemaker.processes.usage import Gpu, Usage, folder_bytes, gpus, usage_by_container

_log = logging.getLogger(__name__)
_MINUTE = 60
_LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class _Sample:
    """An instance's latest: its minute, the machine's ticks then, and each container's CPU time."""

    minute: int
    moment: float
    cpu_seconds: dict[ServingContainer, float]


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
            used = {one: usages[one.token] for one in instance.containers if one.token in usages}
            if len(used) < len(instance.containers) or (latest and latest.minute == minute):
                continue
            taken = _Sample(
                minute, MACHINE.ticks(), {one: usage.cpu_seconds for one, usage in used.items()}
            )
            self._latest[instance] = taken
            variant = serving[instance]
            containers = {one: _of_container(one, used[one], latest, taken) for one in used}
            values = {
                name: sum(of_one[name] for of_one in containers.values())
                for name in ("CPUUtilization", "MemoryUtilization")
            }
            values["DiskUtilization"] = disk[instance]
            values |= _of_gpus(used.values(), found_gpus)
            for name, value in values.items():
                variant.record(name, value, "Percent", INSTANCES)
            if variant.spec.direct:
                for one, of_one in containers.items():
                    for name, value in of_one.items():
                        variant.record(name, value, "Percent", INSTANCES, one.spec.hostname)
            variant.record_loaded_models(instance)
            # Without traffic SageMaker emits zeros, so that scaling in goes on
            # (docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-edit.html).
            variant.record("InvocationsPerInstance", 0.0)


def _read(instances: list[Instance]) -> tuple[dict[str, Usage], list[Gpu], dict[Instance, float]]:
    disk = {
        one: 100 * folder_bytes(one.folder) / shutil.disk_usage(one.folder.parent).total
        for one in instances
    }
    return usage_by_container(), gpus(), disk


def _of_container(
    container: ServingContainer, usage: Usage, before: _Sample | None, taken: _Sample
) -> dict[str, float]:
    """What a container used since the sample before, or since its start."""
    cpu_seconds = before.cpu_seconds[container] if before else 0.0
    seconds = taken.moment - (before.moment if before else container.started)
    return {
        "CPUUtilization": 100 * max(usage.cpu_seconds - cpu_seconds, 0.0) / seconds,
        "MemoryUtilization": 100 * usage.memory_bytes / psutil.virtual_memory().total,
    }


def _of_gpus(usages: Iterable[Usage], found: list[Gpu]) -> dict[str, float]:
    """The metrics of the GPUs that an instance's containers use; nothing on a machine without
    one."""
    if not found:
        return {}
    process_ids = set[int]().union(*(usage.process_ids for usage in usages))
    used = [gpu for gpu in found if process_ids & gpu.memory_of.keys()]
    return {
        "GPUUtilization": sum(gpu.utilization for gpu in used),
        "GPUMemoryUtilization": sum(
            100 * sum(gpu.memory_of.get(pid, 0.0) for pid in process_ids) / gpu.memory
            for gpu in used
        ),
    }
