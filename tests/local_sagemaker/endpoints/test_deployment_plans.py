"""Any legal DeploymentConfig gives a plan that goes from the old fleet to the new one; an illegal
one is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from local_sagemaker.endpoints.deployment_configs import Plan, deployment_plan
from local_sagemaker.errors import ServiceError

BOUNDS = {"CanarySize": (1, 50), "LinearStepSize": (10, 50), "MaximumBatchSize": (5, 50)}
sizes = st.fixed_dictionaries(
    {"Type": st.sampled_from(["INSTANCE_COUNT", "CAPACITY_PERCENT"]), "Value": st.integers(1, 110)}
)
waits = st.integers(0, 3600)
counts = st.integers(1, 60)


def variants(*instances: int, kind: str = "ml.m5.large") -> list[dict[str, Any]]:
    return [
        {
            "VariantName": f"variant-{number}",
            "DesiredInstanceCount": count,
            "Config": {"InstanceType": kind},
        }
        for number, count in enumerate(instances)
    ]


def legal(member: str, size: dict[str, Any], count: int) -> bool:
    least, most = BOUNDS[member]
    whole = 100 if size["Type"] == "CAPACITY_PERCENT" else count
    value: int = size["Value"]
    return least * whole <= 100 * value <= most * whole


def plan_or_refusal(config: dict[str, Any], blue: Any, green: Any, *, allowed: bool) -> Plan | None:
    if allowed:
        return deployment_plan(config, blue, green)
    with pytest.raises(ServiceError, match="must be between"):
        deployment_plan(config, blue, green)
    return None


@given(
    st.sampled_from(["ALL_AT_ONCE", "CANARY", "LINEAR"]),
    sizes,
    waits,
    waits,
    st.lists(st.tuples(counts, counts), min_size=1, max_size=4),
)
def test_blue_green_shifts_never_back_and_in_steps_of_the_size(
    kind: str, size: dict[str, Any], wait: int, termination: int, fleets: list[tuple[int, int]]
) -> None:
    blue, green = variants(*(old for old, _ in fleets)), variants(*(new for _, new in fleets))
    member = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(kind)
    routing = {"Type": kind, "WaitIntervalInSeconds": wait} | ({member: size} if member else {})
    policy = {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": termination}
    allowed = member is None or all(legal(member, size, new) for _, new in fleets)
    plan = plan_or_refusal({"BlueGreenUpdatePolicy": policy}, blue, green, allowed=allowed)
    if plan is None:
        return
    assert (plan.wait_seconds, plan.termination_seconds) == (wait, termination)
    for old, new in zip(blue, green, strict=True):
        name = new["VariantName"]
        shares = [Fraction(0), *(step.shares[name] for step in plan.steps)]
        assert shares == sorted(shares)
        assert shares[-1] == 1
        step_share = Fraction(
            size["Value"],
            100 if size["Type"] == "CAPACITY_PERCENT" else new["DesiredInstanceCount"],
        )
        if kind == "CANARY":
            assert shares == [0, step_share, 1]
        if kind == "LINEAR":
            assert all(after - before <= step_share for before, after in pairwise(shares))
        for step in plan.steps:
            assert step.green[name] == new["DesiredInstanceCount"]
            assert step.blue[name] == old["DesiredInstanceCount"]
    held = plan.most_instances(blue, green)
    assert sum(one["DesiredInstanceCount"] for one in held) == sum(a + b for a, b in fleets)


@given(sizes, counts, counts)
def test_a_rolling_update_holds_one_batch_more_at_most_and_always_serves(
    size: dict[str, Any], old: int, new: int
) -> None:
    assume(size["Type"] == "INSTANCE_COUNT" or size["Value"] <= 100)
    blue, green = variants(old), variants(new)
    policy = {"MaximumBatchSize": size, "WaitIntervalInSeconds": 0}
    allowed = legal("MaximumBatchSize", size, new)
    plan = plan_or_refusal({"RollingUpdatePolicy": policy}, blue, green, allowed=allowed)
    if plan is None:
        return
    whole = 100 if size["Type"] == "CAPACITY_PERCENT" else new
    batch = max(math.floor(Fraction(size["Value"], whole) * new), 1)
    there, left, share = 0, old, Fraction(0)
    for step in plan.steps:
        (now,), (kept,), (reached,) = (
            step.green.values(),
            step.blue.values(),
            step.shares.values(),
        )
        assert there < now <= there + batch
        assert share < reached == Fraction(now, new)
        assert kept <= left
        assert now + kept >= min(old, new)
        there, left, share = now, kept, reached
    assert (there, left, share) == (new, 0, Fraction(1))
    if old == new:
        assert sum(o["DesiredInstanceCount"] for o in plan.most_instances(blue, green)) <= (
            new + batch
        )


@pytest.mark.parametrize("excluded", ["ml.inf1.xlarge", "ml.inf1.24xlarge"])
def test_an_excluded_endpoint_falls_back_to_all_at_once_without_baking(excluded: str) -> None:
    policy = {
        "TrafficRoutingConfiguration": {
            "Type": "CANARY",
            "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10},
            "WaitIntervalInSeconds": 600,
        }
    }
    guarded = {
        "BlueGreenUpdatePolicy": policy,
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "a"}]},
    }
    plan = deployment_plan(guarded, variants(2), variants(2, kind=excluded))
    assert [step.shares for step in plan.steps] == [{"variant-0": 1}]
    assert (plan.wait_seconds, plan.alarms) == (0, ())


def test_rolling_with_several_variants_is_refused() -> None:
    policy = {
        "MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": 50},
        "WaitIntervalInSeconds": 0,
    }
    with pytest.raises(ServiceError, match="multi-variant inference endpoints"):
        deployment_plan({"RollingUpdatePolicy": policy}, variants(1, 1), variants(1, 1))
