"""Scaling policies of Application Auto Scaling: the operations on them, and the capacity that those
of a target ask for.

Source: docs.aws.amazon.com/autoscaling/application/APIReference/API_PutScalingPolicy.html.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final

from local_sagemaker.account.cloud import Cloud, Operation
from local_sagemaker.account.state import Document
from local_sagemaker.errors import ServiceError, not_emulated, validation
from local_sagemaker.monitoring.alarms import Alarms
from local_sagemaker.monitoring.endpoint_metrics import INVOCATIONS
from local_sagemaker.monitoring.queries import InvalidQueryError, Queries
from local_sagemaker.monitoring.statistics import MINUTE, Statistics
from local_sagemaker.scaling.policies import (
    DEFAULT_COOLDOWN,
    HIGH_PERIODS,
    LOW_PERIODS,
    LOW_SHARE,
    Bounds,
    Cooldowns,
    Decision,
    Step,
    StepScaling,
    TargetTracking,
    note,
)
from local_sagemaker.scaling.scope import (
    INSTANCES,
    NAMESPACE,
    PROVISIONED,
    TARGET,
    endpoint_and_variant,
    is_of,
    key_of,
    page_of,
    resource_of,
)

_POLICY: Final = "scaling-policy"
_TRACKING: Final = "TargetTrackingScalingPolicyConfiguration"
_STEPS: Final = "StepScalingPolicyConfiguration"
_PREDEFINED: Final = {
    "SageMakerVariantInvocationsPerInstance": (INSTANCES, "InvocationsPerInstance", "Sum"),
    "SageMakerVariantProvisionedConcurrencyUtilization": (
        PROVISIONED,
        "ServerlessProvisionedConcurrencyUtilization",
        "Average",
    ),
}
"""The predefined metrics: their dimension, CloudWatch's metric and its statistic. AWS's page
(docs.aws.amazon.com/sagemaker/latest/dg/serverless-endpoints-autoscale.html) does not name the
second one's statistic."""
_MOST_STEPS: Final = 20


@dataclass(frozen=True)
class Change:
    """Another capacity than the one `before`, the words for why, and the policy that asks."""

    capacity: int
    before: int
    cause: str
    decision: Decision
    policy: str


class ScalingPolicies:
    """The scaling policies of all targets."""

    def __init__(self, cloud: Cloud, statistics: Statistics, alarms: Alarms) -> None:
        self._cloud = cloud
        self._statistics = statistics
        self._alarms = alarms
        self.operations: dict[str, Operation] = {
            "PutScalingPolicy": self.put,
            "DescribeScalingPolicies": self.describe,
            "DeleteScalingPolicy": self.delete,
        }

    # ---- operations ------------------------------------------------------------------------------

    async def put(self, params: dict[str, Any]) -> dict[str, Any]:
        """PutScalingPolicy: a new policy, or another configuration of one of this name. Target
        tracking gets its two alarms."""
        resource, name = resource_of(params), params["PolicyName"]
        endpoint_and_variant(resource)
        dimension = params["ScalableDimension"]
        target = self._cloud.store.get(TARGET, resource)
        if target is None or target["ScalableDimension"] != dimension:
            raise ServiceError(
                "ObjectNotFoundException",
                f"No scalable target registered for namespace: {NAMESPACE}, resource ID: "
                f"{resource}, scalable dimension: {dimension}",
            )
        key = key_of(resource, name)
        known = self._cloud.store.get(_POLICY, key) or {}
        kind = params.get("PolicyType", known.get("PolicyType", "StepScaling"))
        if known and kind != known["PolicyType"]:
            raise validation(f"The policy type of {name} cannot be changed; delete it first.")
        if kind not in ("StepScaling", "TargetTrackingScaling"):
            raise not_emulated(f"PutScalingPolicy.PolicyType {kind}")
        member, other = (_STEPS, _TRACKING) if kind == "StepScaling" else (_TRACKING, _STEPS)
        if params.get(other) is not None or params.get(member) is None:
            raise validation(f"A policy of the type {kind} needs {member}, and nothing else.")
        settings = self._cloud.settings
        policy: Document = {
            "PolicyName": name,
            "ServiceNamespace": NAMESPACE,
            "ResourceId": resource,
            "ScalableDimension": dimension,
            "CreationTime": self._cloud.clock.now(),
            "PolicyARN": f"arn:aws:autoscaling:{settings.region}:{settings.account_id}:"
            f"scalingPolicy:{uuid.uuid4()}:resource/sagemaker/{resource}:policyName/{name}",
            "Cooldowns": asdict(Cooldowns()),
            "AlarmSuffix": str(uuid.uuid4()),
            **known,
            "PolicyType": kind,
            member: params[member],
        }
        if kind == "StepScaling":
            _steps(policy)
        else:
            self._check_tracking(policy)
            await self._put_alarms(policy)
        self._cloud.store.put(_POLICY, key, policy)
        return {"PolicyARN": policy["PolicyARN"], "Alarms": self._alarms_of(policy)}

    def _check_tracking(self, policy: Document) -> None:
        """Raises ServiceError for a policy that could never act, or a second one for a metric."""
        _tracking(policy)
        try:
            queries = _tracking_queries(policy)
            queries.returned  # noqa: B018 - which raises
        except InvalidQueryError as error:
            raise validation(f"{policy['PolicyName']}: {error}.") from error
        if queries.period != MINUTE:
            raise not_emulated(f"A target that is tracked every {queries.period} seconds")
        for _, other in self._cloud.store.all(_POLICY):
            if (
                other["ResourceId"] == policy["ResourceId"]
                and other["PolicyName"] != policy["PolicyName"]
                and other["PolicyType"] == policy["PolicyType"]
                and _metric(other) == _metric(policy)
            ):
                raise validation(
                    f"Only one TargetTrackingScaling policy for a given metric specification is "
                    f"allowed; {other['PolicyName']} has this one."
                )

    async def _put_alarms(self, policy: Document) -> None:
        tracking, queries = _tracking(policy), policy_queries(policy)
        for suffix, threshold, comparison, periods in (
            ("High", tracking.target, "GreaterThanThreshold", HIGH_PERIODS),
            ("Low", LOW_SHARE * tracking.target, "LessThanThreshold", LOW_PERIODS),
        ):
            await self._alarms.put(
                {
                    "AlarmName": _alarm_name(policy, suffix),
                    "AlarmDescription": f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy "
                    f"{policy['PolicyARN']}.",
                    "AlarmActions": [policy["PolicyARN"]],
                    "Metrics": queries,
                    "Threshold": threshold,
                    "ComparisonOperator": comparison,
                    "EvaluationPeriods": periods,
                }
            )

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeScalingPolicies."""
        wanted = params.get("PolicyNames", [])
        found = [
            {
                **{
                    name: value
                    for name, value in policy.items()
                    if name not in ("Cooldowns", "AlarmSuffix")
                },
                "Alarms": self._alarms_of(policy),
            }
            for _, policy in self._cloud.store.all(_POLICY)
            if is_of(policy, params) and (not wanted or policy["PolicyName"] in wanted)
        ]
        return page_of("ScalingPolicies", found, params)

    async def delete(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteScalingPolicy, with the alarms of target tracking."""
        resource, name = resource_of(params), params["PolicyName"]
        key = key_of(resource, name)
        policy = self._cloud.store.get(_POLICY, key)
        if policy is None:
            raise ServiceError(
                "ObjectNotFoundException",
                f"No scaling policy found for service namespace: {NAMESPACE}, resource ID: "
                f"{resource}, scalable dimension: {params['ScalableDimension']}, policy name: "
                f"{name}",
            )
        await self._remove(key, policy)
        return {}

    async def forget(self, resource: str) -> None:
        """Delete the policies of a target that is gone."""
        for key, policy in self._cloud.store.all(_POLICY):
            if policy["ResourceId"] == resource:
                await self._remove(key, policy)

    async def _remove(self, key: str, policy: Document) -> None:
        if policy["PolicyType"] == "TargetTrackingScaling":
            names = [_alarm_name(policy, suffix) for suffix in ("High", "Low")]
            await self._alarms.delete({"AlarmNames": names})
        self._cloud.store.delete(_POLICY, key)

    def _alarms_of(self, policy: Document) -> list[dict[str, str]]:
        return self._alarms.with_action(policy["PolicyARN"])

    # ---- what they ask for -----------------------------------------------------------------------

    def change(
        self, resource: str, capacity: int, bounds: Bounds, suspended: Mapping[str, bool]
    ) -> Change | None:
        """The capacity that the policies of a target ask for in this minute; None to leave it.

        The largest of several scale-outs holds. Target tracking scales in when every such policy
        that may scale in would, and then to the largest of their capacities
        (docs.aws.amazon.com/autoscaling/application/userguide/
        target-tracking-scaling-policy-overview.html, "Multiple target tracking scaling policies").
        """
        policies = [
            one for _, one in self._cloud.store.all(_POLICY) if one["ResourceId"] == resource
        ]
        tracked = [one for one in policies if one["PolicyType"] == "TargetTrackingScaling"]
        asked = [
            found for one in tracked if (found := self._tracked(one, capacity, bounds)) is not None
        ]
        stepped = [
            found
            for one in policies
            if one["PolicyType"] == "StepScaling"
            if (found := self._stepped(one, capacity, bounds)) is not None
        ]
        out = [one for one in (*asked, *stepped) if one.capacity > capacity]
        if out:
            return (
                None
                if suspended["DynamicScalingOutSuspended"]
                else max(out, key=lambda one: one.capacity)
            )
        may_scale_in = [one for one in tracked if _tracking(one).scale_in]
        down = [one for one in stepped if one.capacity < capacity]
        ready = [one for one in asked if one.capacity < capacity]
        if ready and len(ready) == len(may_scale_in):
            down.append(max(ready, key=lambda one: one.capacity))
        if not down or suspended["DynamicScalingInSuspended"]:
            return None
        return max(down, key=lambda one: one.capacity)

    def made(self, resource: str, change: Change) -> None:
        """Begin the cooldowns of a change that was made."""
        key = key_of(resource, change.policy)
        policy = self._cloud.store.get(_POLICY, key)
        if policy is not None:
            cooldowns = Cooldowns(**policy["Cooldowns"])
            note(cooldowns, change.decision, self._statistics.now(), change.before)
            self._cloud.store.put(_POLICY, key, policy | {"Cooldowns": asdict(cooldowns)})

    def _tracked(self, policy: Document, capacity: int, bounds: Bounds) -> Change | None:
        queries, now = _tracking_queries(policy), self._statistics.now()
        end = now // MINUTE * MINUTE
        found = queries.values(self._statistics, end - LOW_PERIODS * MINUTE, end)
        cooldowns = Cooldowns(**policy["Cooldowns"])
        decision = _tracking(policy).decide(
            found[queries.returned.id], capacity, bounds, cooldowns, now
        )
        if decision is None:
            return None
        alarm = _alarm_name(policy, decision.alarm.removeprefix("Alarm"))
        return _change(policy, alarm, decision, capacity)

    def _stepped(self, policy: Document, capacity: int, bounds: Bounds) -> Change | None:
        """By the alarm that acts, of several the one that changes most."""
        steps, cooldowns = _steps(policy), Cooldowns(**policy["Cooldowns"])
        found = []
        for alarm in self._alarms.acting(policy["PolicyARN"]):
            if alarm.breach is not None:
                now = self._statistics.now()
                decision = steps.decide(alarm.breach, capacity, bounds, cooldowns, now)
                if decision is not None:
                    found.append(_change(policy, alarm.name, decision, capacity))
        return max(found, key=lambda one: abs(one.capacity - capacity), default=None)


def _change(policy: Document, alarm: str, decision: Decision, before: int) -> Change:
    name = policy["PolicyName"]
    cause = f"monitor alarm {alarm} in state ALARM triggered policy {name}"
    return Change(decision.capacity, before, cause, decision, name)


def _alarm_name(policy: Document, suffix: str) -> str:
    return f"TargetTracking-{policy['ResourceId']}-Alarm{suffix}-{policy['AlarmSuffix']}"


def _tracking(policy: Document) -> TargetTracking:
    """Raises ValidationException."""
    given = policy[_TRACKING]
    try:
        return TargetTracking(
            given["TargetValue"],
            given.get("ScaleOutCooldown", DEFAULT_COOLDOWN),
            given.get("ScaleInCooldown", DEFAULT_COOLDOWN),
            not given.get("DisableScaleIn", False),
        )
    except ValueError as error:
        raise validation(f"{policy['PolicyName']}: {error}.") from error


def _metric(policy: Document) -> Any:
    given = policy[_TRACKING]
    return given.get("PredefinedMetricSpecification"), given.get("CustomizedMetricSpecification")


def policy_queries(policy: Document) -> list[dict[str, Any]]:
    """The metric of target tracking as MetricDataQuery structures. Raises ValidationException."""
    predefined, customized = _metric(policy)
    if (predefined is None) == (customized is None):
        raise validation(
            "Target tracking needs a PredefinedMetricSpecification or a "
            "CustomizedMetricSpecification, one of the two."
        )
    if predefined is not None:
        kind = predefined["PredefinedMetricType"]
        if kind not in _PREDEFINED:
            raise not_emulated(f"PredefinedMetricType {kind}")
        dimension, name, statistic = _PREDEFINED[kind]
        if policy["ScalableDimension"] != dimension:
            raise validation(f"PredefinedMetricType {kind} is of the dimension {dimension}.")
        endpoint, variant = endpoint_and_variant(policy["ResourceId"])
        metric = {
            "Namespace": INVOCATIONS,
            "MetricName": name,
            "Dimensions": [
                {"Name": "EndpointName", "Value": endpoint},
                {"Name": "VariantName", "Value": variant},
            ],
        }
        return [{"Id": "m1", "MetricStat": {"Metric": metric, "Stat": statistic, "Period": MINUTE}}]
    metrics: Sequence[Mapping[str, Any]] = customized.get("Metrics") or []
    if metrics:
        if any(customized.get(member) for member in ("MetricName", "Namespace", "Statistic")):
            raise validation("Metrics stands for MetricName, Namespace and Statistic.")
        return [
            {**query, "MetricStat": {**query["MetricStat"], "Period": MINUTE}}
            if query.get("MetricStat")
            else dict(query)
            for query in metrics
        ]
    missing = [
        member for member in ("MetricName", "Namespace", "Statistic") if not customized.get(member)
    ]
    if missing:
        raise validation(f"CustomizedMetricSpecification needs {', '.join(missing)}.")
    stat = {"Metric": customized, "Stat": customized["Statistic"], "Period": MINUTE}
    return [{"Id": "m1", "MetricStat": stat}]


def _tracking_queries(policy: Document) -> Queries:
    """Raises InvalidQueryError or ValidationException."""
    return Queries.parse(policy_queries(policy))


def _steps(policy: Document) -> StepScaling:
    """Raises ValidationException for steps that overlap, leave a gap, or change nothing."""
    given = policy[_STEPS]
    adjustments = given.get("StepAdjustments", [])
    if given.get("AdjustmentType") is None or not 1 <= len(adjustments) <= _MOST_STEPS:
        raise validation(
            f"Step scaling needs an AdjustmentType and from 1 to {_MOST_STEPS} StepAdjustments."
        )
    steps = [
        Step(
            one.get("MetricIntervalLowerBound"),
            one.get("MetricIntervalUpperBound"),
            one["ScalingAdjustment"],
        )
        for one in adjustments
    ]
    steps.sort(key=lambda step: -float("inf") if step.lower is None else step.lower)
    for step in steps:
        if step.lower is None and step.upper is None and len(steps) > 1:
            raise validation("A step without bounds must be the only one.")
        if step.lower is not None and step.upper is not None and step.lower >= step.upper:
            raise validation(
                f"The lower bound of a step must be below its upper bound: {step.lower:g} is not "
                f"below {step.upper:g}."
            )
    for one, other in pairwise(steps):
        if one.upper is None or other.lower is None or one.upper != other.lower:
            raise validation("StepAdjustments must neither overlap nor leave a gap.")
    aggregation = given.get("MetricAggregationType", "Average")
    if aggregation not in ("Average", "Minimum", "Maximum"):
        raise validation(f"MetricAggregationType {aggregation} is not known.")
    return StepScaling(
        given["AdjustmentType"],
        tuple(steps),
        given.get("MinAdjustmentMagnitude", 0),
        given.get("Cooldown", DEFAULT_COOLDOWN),
    )
