"""Registers what the YAML says about an endpoint's capacity, finds what differs from it, and lets
an operator override it for a time.

Tenantry sets bounds, scheduled actions, policies and alarms. Application Auto Scaling alone sets
the number of instances, so capacity goes on while Dagster is down.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from tenantry.capacity.ahead import PREFIX, Ahead, forecast_actions, look_ahead, raised
from tenantry.capacity.policies import alarm_name, alarm_requests, policy_requests
from tenantry.capacity.scaled_endpoints import ScaledEndpoint, resource_of
from tenantry.capacity.timetable import Bounds, ScheduledAction, actions_of, bounds_at
from tenantry.hosting.endpoints import Endpoint, EndpointFailedError, as_endpoint, wait_in_service

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

MOST_AT_ONCE: Final = 50
"""Endpoints whose bounds one call reads (docs.aws.amazon.com/autoscaling/application/APIReference/
API_DescribeScalableTargets.html)."""
_DIMENSION: Final = "sagemaker:variant:DesiredInstanceCount"
_OVERRIDE: Final = "tenantry-override-end"
_OURS: Final = "tenantry-"
_AT: Final = re.compile(r"at\((\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\)")


@dataclass(frozen=True)
class Override:
    """An operator's number of instances, until a moment."""

    instances: int
    until: datetime


@dataclass(frozen=True)
class Registered:
    """What is registered for an endpoint's variant."""

    bounds: Bounds | None
    actions: Mapping[str, Mapping[str, Any]]
    policies: Mapping[str, Mapping[str, Any]]
    alarms: Mapping[str, Mapping[str, Any]]

    def override(self, now: datetime) -> Override | None:
        """The override that holds at a moment."""
        action = self.actions.get(_OVERRIDE)
        found = _AT.fullmatch(action["Schedule"]) if action is not None else None
        if self.bounds is None or found is None:
            return None
        until = datetime.fromisoformat(found[1]).replace(tzinfo=UTC)
        return Override(self.bounds.maximum, until) if until > now else None


@dataclass(frozen=True)
class Mended:
    """What is registered for an endpoint after it was mended: ``differed`` says what was not as
    the YAML says. An endpoint without a registration before differed in nothing."""

    bounds: Bounds
    override: Override | None
    differed: tuple[str, ...]
    ahead: Ahead


@dataclass(frozen=True)
class Capacity(Mended):
    """The same once the number of instances is within the bounds."""

    endpoint: Endpoint


def register_capacity(
    deployment: Deployment,
    scaled: ScaledEndpoint,
    *,
    override: Override | None = None,
    end_override: bool = False,
    timeout: float = 1800.0,
) -> Capacity:
    """Register what the YAML says, and wait until the number of instances is within the bounds.

    Args:
        deployment: where.
        scaled: the endpoint, which exists.
        override: a number that holds for a time instead of the YAML's bounds; None keeps one that
            holds already.
        end_override: end one that holds.
        timeout: seconds to wait for the instances.

    Raises:
        EndpointFailedError: the endpoint is missing, or cannot have so many instances; the message
            gives the reason.
    """
    wait_in_service(deployment, scaled.name, timeout=timeout)
    there = registered(deployment, scaled)
    done = mend(deployment, scaled, there, override=override, end_override=end_override)
    endpoint = _wait_within(deployment, scaled, done.bounds, timeout)
    return Capacity(done.bounds, done.override, done.differed, done.ahead, endpoint)


def mend(
    deployment: Deployment,
    scaled: ScaledEndpoint,
    there: Registered,
    *,
    override: Override | None = None,
    end_override: bool = False,
) -> Mended:
    """Change what is registered for an endpoint where it differs from the YAML, and wait for
    nothing.

    Args:
        deployment: where.
        scaled: the endpoint, which exists.
        there: what is registered for it now.
        override: as for ``register_capacity``.
        end_override: as for ``register_capacity``.
    """
    now = datetime.now(UTC)
    asked = override is not None or end_override
    if not asked:
        override = there.override(now)
    ahead = look_ahead(deployment, scaled, now)
    bounds = (
        raised(bounds_at(scaled.section, now, scaled.most), ahead.floor_at(now))
        if override is None
        else Bounds(override.instances, override.instances)
    )
    differed = [
        *_bring_bounds(deployment, scaled, there, bounds),
        *_bring_actions(deployment, scaled, there, _actions(scaled, now, override, ahead)),
        *_bring_policies(deployment, scaled, there),
    ]
    expected = asked or there.bounds is None
    return Mended(bounds, override, () if expected else tuple(differed), ahead)


def registered(deployment: Deployment, scaled: ScaledEndpoint) -> Registered:
    """What is registered for an endpoint now."""
    return Registrations(deployment, [scaled]).of(scaled)


class Registrations:
    """What is registered for some endpoints.

    One call reads the bounds of all, and one their alarms. AWS takes one endpoint at a time for
    scheduled actions and for policies, so each endpoint's are read as it is asked for.
    """

    def __init__(self, deployment: Deployment, some: Sequence[ScaledEndpoint]) -> None:
        """``some`` are at most ``MOST_AT_ONCE``."""
        self._deployment = deployment
        names = [one.name for one in some]
        self._bounds = _bounds_of(deployment, names)
        self._alarms = _alarms_of(deployment, names)

    def of(self, scaled: ScaledEndpoint) -> Registered:
        """Those of one of the endpoints."""
        name = alarm_name(scaled.name)
        alarms = {name: self._alarms[name]} if name in self._alarms else {}
        bounds = self._bounds.get(scaled.name)
        if bounds is None:  # without a target there are neither actions nor policies
            return Registered(None, {}, {}, alarms)
        client, scope = self._deployment.auto_scaling, _scope(scaled.resource)
        actions = {
            one["ScheduledActionName"]: one
            for page in client.get_paginator("describe_scheduled_actions").paginate(**scope)
            for one in page["ScheduledActions"]
        }
        policies = {
            one["PolicyName"]: one
            for page in client.get_paginator("describe_scaling_policies").paginate(**scope)
            for one in page["ScalingPolicies"]
        }
        if _OVERRIDE in actions:  # an operator may have changed the bounds after they were read
            bounds = _bounds_of(self._deployment, [scaled.name]).get(scaled.name)
        return Registered(bounds, actions, policies, alarms)


def _bounds_of(deployment: Deployment, names: Sequence[str]) -> dict[str, Bounds]:
    """The bounds that are registered, by the endpoint's name."""
    found = deployment.auto_scaling.describe_scalable_targets(
        ServiceNamespace="sagemaker",
        ResourceIds=[resource_of(name) for name in names],
        ScalableDimension=_DIMENSION,
        MaxResults=MOST_AT_ONCE,
    )["ScalableTargets"]
    by_resource = {
        one["ResourceId"]: Bounds(one["MinCapacity"], one["MaxCapacity"]) for one in found
    }
    return {
        name: by_resource[resource_of(name)] for name in names if resource_of(name) in by_resource
    }


def _alarms_of(deployment: Deployment, names: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    found = deployment.cloudwatch.describe_alarms(
        AlarmNames=[alarm_name(name) for name in names], MaxRecords=2 * MOST_AT_ONCE
    )
    return {one["AlarmName"]: one for one in found["MetricAlarms"]}


def deregister(deployment: Deployment, endpoint: str) -> None:
    """Forget the capacity of an endpoint that is to be deleted; its alarms go with it."""
    client, scope = deployment.auto_scaling, _scope(resource_of(endpoint))
    if names := list(_alarms_of(deployment, [endpoint])):
        deployment.cloudwatch.delete_alarms(AlarmNames=names)
    if _bounds_of(deployment, [endpoint]):
        client.deregister_scalable_target(**scope)


def activities(deployment: Deployment, scaled: ScaledEndpoint, most: int) -> list[dict[str, Any]]:
    """The latest scaling activities, the newest first."""
    found: Any = deployment.auto_scaling.describe_scaling_activities(
        **_scope(scaled.resource), MaxResults=most
    )
    activities: list[dict[str, Any]] = found["ScalingActivities"]
    return activities


def _scope(resource: str) -> Any:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": resource,
        "ScalableDimension": _DIMENSION,
    }


def _bring_bounds(
    deployment: Deployment, scaled: ScaledEndpoint, there: Registered, bounds: Bounds
) -> Iterator[str]:
    if there.bounds == bounds:
        return
    # IAM knows a target by its tag, as AWS chooses its name. A target takes tags when it is made.
    tags: Any = {"Tags": {"tenantry:deployment": deployment.prefix}} if there.bounds is None else {}
    deployment.auto_scaling.register_scalable_target(
        **_scope(scaled.resource), MinCapacity=bounds.minimum, MaxCapacity=bounds.maximum, **tags
    )
    if there.bounds is not None:
        before = there.bounds
        if before.minimum != bounds.minimum:
            yield f"minimum was {before.minimum}; it is {bounds.minimum}"
        if before.maximum != bounds.maximum:
            yield f"maximum was {before.maximum}; it is {bounds.maximum}"


def _actions(
    scaled: ScaledEndpoint, now: datetime, override: Override | None, ahead: Ahead
) -> dict[str, dict[str, Any]]:
    """PutScheduledAction's members by name. Under an override, the timetable begins at its end."""
    wanted = {
        action.name: _action(action, None if override is None else override.until)
        for action in [
            *actions_of(scaled.section, now, scaled.most),
            *forecast_actions(scaled, ahead, now),
        ]
    }
    if override is not None:
        after = ScheduledAction(
            _OVERRIDE,
            f"at({override.until.astimezone(UTC):%Y-%m-%dT%H:%M:%S})",
            "UTC",
            bounds_at(scaled.section, override.until, scaled.most),
        )
        wanted = {
            name: action
            for name, action in wanted.items()
            if not _is_before(action, override.until)
        }
        wanted[_OVERRIDE] = _action(after)
    return wanted


def _action(action: ScheduledAction, begin: datetime | None = None) -> dict[str, Any]:
    """PutScheduledAction's members; one that recurs may begin later."""
    later = begin is not None and not action.schedule.startswith("at(")
    return {
        **({"StartTime": begin} if later else {}),
        "Schedule": action.schedule,
        "Timezone": action.timezone,
        "ScalableTargetAction": {
            "MinCapacity": action.bounds.minimum,
            "MaxCapacity": action.bounds.maximum,
        },
    }


def _is_before(action: Mapping[str, Any], until: datetime) -> bool:
    """Whether an action runs once, before a moment."""
    found = _AT.fullmatch(action["Schedule"])
    if found is None:
        return False
    return datetime.fromisoformat(found[1]).replace(tzinfo=ZoneInfo(action["Timezone"])) <= until


def _bring_actions(
    deployment: Deployment,
    scaled: ScaledEndpoint,
    there: Registered,
    wanted: Mapping[str, Mapping[str, Any]],
) -> Iterator[str]:
    client = deployment.auto_scaling
    for name, action in wanted.items():
        before = there.actions.get(name)
        if before is None or not _has(before, action):
            put: Any = client.put_scheduled_action
            put(**_scope(scaled.resource), ScheduledActionName=name, **action)
            if not name.startswith(PREFIX):  # a forecast changes, and with it its actions
                yield f"scheduled action {name} was {'missing' if before is None else 'otherwise'}"
    for name in there.actions:
        if name.startswith(_OURS) and name not in wanted:
            client.delete_scheduled_action(**_scope(scaled.resource), ScheduledActionName=name)
            if not name.startswith(PREFIX):
                yield f"scheduled action {name} was there without the YAML"


def _bring_policies(
    deployment: Deployment, scaled: ScaledEndpoint, there: Registered
) -> Iterator[str]:
    client, wanted = deployment.auto_scaling, policy_requests(scaled)
    arns = {name: policy["PolicyARN"] for name, policy in there.policies.items()}
    names = {request["PolicyName"] for request in wanted}
    for request in wanted:
        before = there.policies.get(request["PolicyName"])
        if before is None or not _has(before, request):
            put: Any = client.put_scaling_policy
            arns[request["PolicyName"]] = put(**_scope(scaled.resource), **request)["PolicyARN"]
            how = "missing" if before is None else "otherwise"
            yield f"policy {request['PolicyName']} was {how}"
    for name in there.policies:
        if name.startswith(_OURS) and name not in names:
            client.delete_scaling_policy(**_scope(scaled.resource), PolicyName=name)
            yield f"policy {name} was there without the YAML"
    alarms = alarm_requests(scaled, arns)
    for alarm in alarms:
        before = there.alarms.get(alarm["AlarmName"])
        if before is None or not _has(before, alarm):
            deployment.cloudwatch.put_metric_alarm(**alarm)
            yield f"alarm {alarm['AlarmName']} was {'missing' if before is None else 'otherwise'}"
    left = there.alarms.keys() - {alarm["AlarmName"] for alarm in alarms}
    if left:
        deployment.cloudwatch.delete_alarms(AlarmNames=sorted(left))
        yield f"alarm {', '.join(sorted(left))} was there without the YAML"


def _has(there: Any, wanted: Any) -> bool:
    """Whether a description has everything that a request says, at any depth; and no StartTime that
    it does not say."""
    if isinstance(wanted, Mapping):
        return (
            isinstance(there, Mapping)
            and ("StartTime" in wanted or "StartTime" not in there)
            and all(name in there and _has(there[name], value) for name, value in wanted.items())
        )
    if isinstance(wanted, list):
        return len(there) == len(wanted) and all(
            _has(one, other) for one, other in zip(there, wanted, strict=True)
        )
    if isinstance(wanted, datetime):
        return isinstance(there, datetime) and abs((there - wanted).total_seconds()) < 1
    return bool(there == wanted)


def _wait_within(
    deployment: Deployment, scaled: ScaledEndpoint, bounds: Bounds, timeout: float
) -> Endpoint:
    """Wait until the number of instances is within bounds.

    Raises:
        EndpointFailedError: Application Auto Scaling could not have it so.
    """
    deadline, pause = time.monotonic() + timeout, 0.2
    begun = time.monotonic()
    while True:
        described = wait_in_service(deployment, scaled.name, timeout=timeout)
        variant = described["ProductionVariants"][0]
        desired, current = variant["DesiredInstanceCount"], variant["CurrentInstanceCount"]
        if bounds.minimum <= desired <= bounds.maximum and current >= bounds.minimum:
            return as_endpoint(described, "unchanged")
        why = _latest_failure(deployment, scaled)
        if why is not None and time.monotonic() - begun > 2.0:
            raise EndpointFailedError(f"endpoint {scaled.name} has {current} instances: {why}")
        if time.monotonic() > deadline:
            raise EndpointFailedError(
                f"endpoint {scaled.name} still has {current} instances after {timeout:.0f} s, not "
                f"{bounds.minimum} to {bounds.maximum}"
            )
        time.sleep(pause)
        pause = min(pause * 1.3, 5.0)


def _latest_failure(deployment: Deployment, scaled: ScaledEndpoint) -> str | None:
    latest = activities(deployment, scaled, 1)
    if latest and latest[0]["StatusCode"] == "Failed":
        return str(latest[0].get("StatusMessage", "no reason given"))
    return None
