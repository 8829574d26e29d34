"""The Dagster side: definitions, partitions, jobs, sensors, schedules, checks.

``orchestration.Workload`` is the component of Dagster under whose name ``dg`` knows it. It is
loaded only on request, because most modules here do not need it.
"""

from typing import Any

__all__ = ["Workload"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestration.component import WorkloadComponent

    return WorkloadComponent


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
