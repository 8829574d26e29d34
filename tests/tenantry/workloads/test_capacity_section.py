"""What a workload's file may not say about capacity is refused, with field and cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tenantry.workloads.test_schema import refusal_of


@pytest.mark.parametrize(
    ("where", "value", "field"),
    [
        (
            "serving.capacity",
            [{"name": "day", "cron": "0 7 * * *", "instances": 2}],
            "serving.capacity: it is a section now: move the list to capacity.timetable",
        ),
        ("serving.capacity.maximum", 0, "serving.capacity.maximum: is 0; it must be 1 or more"),
        ("serving.capacity.minimum", 9, "minimum is 9, above the maximum of 4"),
        ("serving.capacity.minimum", 0, "an endpoint that answers in real time needs an instance"),
        (
            "serving.capacity.timetable.0.cron",
            "99 99 * * *",
            "has the minute '99': it takes 0 to 59",
        ),
        ("serving.capacity.timetable.0.cron", "0 7 1 * 1", "AWS takes one of the two"),
        ("serving.capacity.timetable.0.minimum", 5, "business_hours: minimum is 5, above"),
        (
            "serving.capacity.policies",
            [{"kind": "target_tracking", "metric": "cpu", "target": 0}],
            "target: is 0; it must be more than 0",
        ),
        (
            "serving.capacity.policies",
            [{"kind": "target_tracking", "metric": "gpu", "target": 50}],
            "ml.c5.large has no GPU, so nothing reports its use; track cpu instead",
        ),
        (
            "serving.capacity.policies",
            [{"kind": "target_tracking", "metric": "requests", "target": 50}],
            "metric: is 'requests'; it must be 'invocations_per_instance'",
        ),
        (
            "serving.capacity.policies",
            [{"kind": "backlog", "target": 5}],
            "backlog and scale_from_zero are for serving.asynchronous",
        ),
        ("serving.capacity.policies", [{"kind": "magic"}], "policies.0"),
        (
            "serving.capacity.policies",
            [{"kind": "usage_rate", "seconds_per_answer": 1, "target": 75}],
            "target: is 75; it must be 1.0 or less",
        ),
        ("serving.capacity.holidays", {"country": "GB", "change": "x"}, "holidays.change is x"),
        (
            "serving.capacity.holidays",
            {"country": "XX", "change": "night"},
            "'XX' is no country, as GB is",
        ),
        ("serving.capacity.monthly_budget_usd", 10, "raise the budget, or lower the minimum"),
        (
            "serving.asynchronous",
            {
                "instance_type": "ml.c5.large",
                "usd_per_hour": 0.1,
                "instances": 1,
                "capacity": {"minimum": 0, "maximum": 2},
            },
            "without a policy scale_from_zero no request would ever start an instance",
        ),
        (
            "serving.asynchronous",
            {
                "instance_type": "ml.c5.large",
                "usd_per_hour": 0.1,
                "instances": 1,
                "silo_capacity": {"minimum": 0, "maximum": 2},
            },
            "silo_capacity: minimum is 0, and without a policy scale_from_zero",
        ),
        (
            "serving.silo_capacity",
            {"minimum": 0, "maximum": 2, "policies": [{"kind": "scale_from_zero"}]},
            "an endpoint that answers in real time needs an instance",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_section_that_could_never_act_is_refused(
    tmp_path: Path, where: str, value: Any, field: str
) -> None:
    assert field in refusal_of(tmp_path, where, value)
