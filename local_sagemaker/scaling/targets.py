"""Application Auto Scaling for the variants of endpoints: scalable targets, scheduled actions, and
what happens to capacity by itself.

Source: docs.aws.amazon.com/autoscaling/application/APIReference/ (the operations of the same
names).
"""

import asyncio
import logging
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from local_sagemaker.account.cloud import Cloud, Operation
from local_sagemaker.account.state import Document
from local_sagemaker.clock import MACHINE
from local_sagemaker.endpoints.endpoints import Endpoints
from local_sagemaker.errors import ServiceError, validation
from local_sagemaker.monitoring.alarms import Alarms
from local_sagemaker.monitoring.statistics import MINUTE, Statistics
from local_sagemaker.scaling.activities import Activities, count_words
from local_sagemaker.scaling.policies import Bounds
from local_sagemaker.scaling.policy_operations import ScalingPolicies
from local_sagemaker.scaling.schedules import InvalidScheduleError, Schedule
from local_sagemaker.scaling.scope import (
    CAPACITIES,
    NAMESPACE,
    PROVISIONED,
    TARGET,
    capacity_of,
    change_of,
    endpoint_and_variant,
    is_of,
    key_of,
    page_of,
    resource_of,
)

_log = logging.getLogger(__name__)
_ACTION: Final = "scheduled-action"
_LOOK_SECONDS: Final = 1.0
_SUSPENDABLE: Final = (
    "DynamicScalingInSuspended",
    "DynamicScalingOutSuspended",
    "ScheduledScalingSuspended",
)


class ScalableTargets:
    """The scalable targets of the account. Once a second their capacity is brought within its
    bounds, and scheduled actions that are due change the bounds. Once a minute their scaling
    policies have their say."""

    def __init__(
        self, cloud: Cloud, endpoints: Endpoints, statistics: Statistics, alarms: Alarms
    ) -> None:
        self._cloud = cloud
        self._endpoints = endpoints
        self._alarms = alarms
        self._activities = Activities(cloud)
        self._policies = ScalingPolicies(cloud, statistics, alarms)
        self._look_seconds = min(_LOOK_SECONDS, cloud.clock.machine_seconds(MINUTE / 4))
        self._looking: asyncio.Task[None] | None = None
        self.operations: dict[str, Operation] = {
            "RegisterScalableTarget": self.register,
            "DescribeScalableTargets": self.describe,
            "DeregisterScalableTarget": self.deregister,
            "PutScheduledAction": self.put_action,
            "DescribeScheduledActions": self.describe_actions,
            "DeleteScheduledAction": self.delete_action,
            "DescribeScalingActivities": self._activities.describe,
            **self._policies.operations,
        }

    def start(self) -> None:
        """Look after the targets from now on; what was due meanwhile is done at once."""
        self._looking = asyncio.create_task(self._look_for_ever())

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    # ---- targets ---------------------------------------------------------------------------------

    async def register(self, params: dict[str, Any]) -> dict[str, Any]:
        """RegisterScalableTarget: a new target, or other bounds of one that is there."""
        resource = resource_of(params)
        endpoint, variant = endpoint_and_variant(resource)
        dimension = params["ScalableDimension"]
        known = self._cloud.store.get(TARGET, resource)
        if known is not None and known["ScalableDimension"] != dimension:
            known = None  # of the time before the endpoint was converted
        if known is None and not {"MinCapacity", "MaxCapacity"} <= params.keys():
            raise validation(
                "MinCapacity and MaxCapacity are required when you register a new scalable target."
            )
        described = self._endpoints.get(endpoint)
        names = [one["VariantName"] for one in described["Variants"]] if described else []
        if described is None or variant not in names:
            raise validation(
                f"There is no variant {variant} of an endpoint {endpoint}: {resource} cannot be "
                f"registered."
            )
        (registered,) = (one for one in described["Variants"] if one["VariantName"] == variant)
        if capacity_of(registered, dimension) is None:
            raise validation(
                f"{resource} has no {CAPACITIES[dimension]}, so {dimension} cannot be registered."
            )
        target = known or {
            "ServiceNamespace": NAMESPACE,
            "ResourceId": resource,
            "ScalableDimension": dimension,
            "RoleARN": self._role(),
            "CreationTime": self._cloud.clock.now(),
            "SuspendedState": dict.fromkeys(_SUSPENDABLE, False),
            "ScalableTargetARN": self._arn(f"scalable-target/{uuid.uuid4().hex}"),
        }
        bounds: dict[str, int] = {
            name: params[name] if name in params else target[name]
            for name in ("MinCapacity", "MaxCapacity")
        }
        _check_bounds(bounds["MinCapacity"], bounds["MaxCapacity"])
        if bounds["MinCapacity"] == 0 and "AsyncInferenceConfig" not in described:
            why = (
                "ProvisionedConcurrency is at least 1"
                if dimension == PROVISIONED
                else "a variant that answers in real time cannot go to zero"
            )
            raise validation(f"MinCapacity must be at least 1 for {resource}: {why}.")
        target |= bounds
        target["SuspendedState"] = target["SuspendedState"] | params.get("SuspendedState", {})
        self._cloud.store.put(TARGET, resource, target)
        if known is None:
            tags = [{"Key": key, "Value": value} for key, value in params.get("Tags", {}).items()]
            self._cloud.put_tags(target["ScalableTargetARN"], tags)
        return {"ScalableTargetARN": target["ScalableTargetARN"]}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeScalableTargets."""
        wanted = params.get("ResourceIds", [])
        found = [
            target
            for resource, target in self._cloud.store.all(TARGET)
            if is_of(target, params) and (not wanted or resource in wanted)
        ]
        return page_of("ScalableTargets", found, params)

    async def deregister(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeregisterScalableTarget: its scheduled actions and policies go with it; the
        capacity stays."""
        resource = resource_of(params)
        self._known(params)
        await self._forget(resource)
        return {}

    # ---- scheduled actions -----------------------------------------------------------------------

    async def put_action(self, params: dict[str, Any]) -> dict[str, Any]:
        """PutScheduledAction: a new one, or another schedule or action for one of this name. Start
        and end that are not named again are gone."""
        resource = resource_of(params)
        target = self._known(params)
        key = key_of(resource, params["ScheduledActionName"])
        known = self._cloud.store.get(_ACTION, key)
        action = known or {
            "ScheduledActionName": params["ScheduledActionName"],
            "ServiceNamespace": NAMESPACE,
            "ResourceId": resource,
            "ScalableDimension": target["ScalableDimension"],
            "CreationTime": self._cloud.clock.now(),
            "ScheduledActionARN": self._arn(
                f"scheduledAction:{uuid.uuid4()}:resource/sagemaker/{resource}:"
                f"scheduledActionName/{params['ScheduledActionName']}"
            ),
        }
        action = {
            name: value for name, value in action.items() if name not in ("StartTime", "EndTime")
        }
        for name in ("Schedule", "Timezone", "ScalableTargetAction", "StartTime", "EndTime"):
            if params.get(name) is not None:
                action[name] = params[name]
        if "Schedule" not in action or not action.get("ScalableTargetAction"):
            raise validation(
                "A scheduled action needs a Schedule and a ScalableTargetAction with MinCapacity, "
                "MaxCapacity or both."
            )
        changed = action["ScalableTargetAction"]
        _check_bounds(
            changed.get("MinCapacity", target["MinCapacity"]),
            changed.get("MaxCapacity", max(target["MaxCapacity"], changed.get("MinCapacity", 0))),
        )
        try:
            following = _schedule(action).next_after(self._now())
        except InvalidScheduleError as error:
            raise validation(str(error)) from error
        if following is None:
            raise validation(f"{action['Schedule']} has no time that is still to come.")
        action["Next"] = following.timestamp()
        self._cloud.store.put(_ACTION, key, action)
        return {}

    async def describe_actions(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeScheduledActions."""
        wanted = params.get("ScheduledActionNames", [])
        found = [
            {name: value for name, value in action.items() if name != "Next"}
            for _, action in self._cloud.store.all(_ACTION)
            if is_of(action, params) and (not wanted or action["ScheduledActionName"] in wanted)
        ]
        return page_of("ScheduledActions", found, params)

    async def delete_action(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteScheduledAction."""
        resource, name = resource_of(params), params["ScheduledActionName"]
        if self._cloud.store.get(_ACTION, key_of(resource, name)) is None:
            raise ServiceError(
                "ObjectNotFoundException",
                f"No scheduled action found for service namespace: {NAMESPACE}, resource ID: "
                f"{resource}, scalable dimension: {params['ScalableDimension']}, scheduled action "
                f"name: {name}",
            )
        self._cloud.store.delete(_ACTION, key_of(resource, name))
        return {}

    # ---- what happens by itself ------------------------------------------------------------------

    async def _look_for_ever(self) -> None:
        while True:
            new_minute = self._alarms.evaluate()
            for resource, target in self._cloud.store.all(TARGET):
                try:
                    self._run_due_actions(resource, target)
                    await self._follow(resource, target, new_minute=new_minute)
                except Exception:  # noqa: BLE001 - the other targets are looked after
                    _log.exception("scalable target %s", resource)
            await MACHINE.sleep(self._look_seconds)

    def _run_due_actions(self, resource: str, target: Document) -> None:
        """Give the target the bounds of each scheduled action that is due, the longest due first.
        One that was due several times runs once."""
        now = self._now()
        actions = self._cloud.store.all(_ACTION)
        due = [
            a for _, a in actions if a["ResourceId"] == resource and a["Next"] <= now.timestamp()
        ]
        for action in sorted(due, key=lambda action: float(action["Next"])):
            if not target["SuspendedState"]["ScheduledScalingSuspended"]:
                self._run_action(resource, target, action)
            key = key_of(resource, action["ScheduledActionName"])
            following = _schedule(action).next_after(now)
            if following is None:
                self._cloud.store.delete(_ACTION, key)
            else:
                self._cloud.store.put(_ACTION, key, action | {"Next": following.timestamp()})

    def _run_action(self, resource: str, target: Document, action: Document) -> None:
        changed = {**action["ScalableTargetAction"]}
        words = " and ".join(
            f"{word} capacity to {changed[name]}"
            for word, name in (("min", "MinCapacity"), ("max", "MaxCapacity"))
            if name in changed
        )
        cause = f"scheduled action name {action['ScheduledActionName']} was triggered"
        bounds: dict[str, int] = {
            name: changed[name] if name in changed else target[name]
            for name in ("MinCapacity", "MaxCapacity")
        }
        if bounds["MinCapacity"] > bounds["MaxCapacity"]:
            message = (
                f"Failed to set {words}: the minimum would be {bounds['MinCapacity']} and the "
                f"maximum {bounds['MaxCapacity']}"
            )
            self._activities.note(target, f"Setting {words}", cause, "Failed", message)
            return
        target |= bounds
        self._cloud.store.put(TARGET, resource, target)
        done = f"Successfully set {words}"
        self._activities.note(target, f"Setting {words}", cause, "Successful", done)

    async def _follow(self, resource: str, target: Document, *, new_minute: bool) -> None:
        """Bring a target's capacity within its bounds, and in each new minute to what its policies
        ask for."""
        endpoint, variant = endpoint_and_variant(resource)
        described = self._endpoints.get(endpoint)
        capacities = {
            one["VariantName"]: capacity_of(one, target["ScalableDimension"])
            for one in (described["Variants"] if described else [])
        }
        count = capacities.get(variant)
        if described is None or count is None:
            await self._forget(resource)  # as its endpoint is gone, or has another dimension
            return
        if described["EndpointStatus"] != "InService":
            return
        self._activities.end(resource, described, count)
        bounds = Bounds(target["MinCapacity"], target["MaxCapacity"])
        wanted = bounds.within(count)
        if wanted != count:
            bound = "minimum" if count < wanted else "maximum"
            await self._set(target, wanted, f"{bound} capacity was set to {wanted}")
            return
        if not new_minute:
            return
        change = self._policies.change(resource, count, bounds, target["SuspendedState"])
        if change is not None and await self._set(target, change.capacity, change.cause):
            self._policies.made(resource, change)

    async def _set(self, target: Document, count: int, cause: str) -> bool:
        """Give a variant this capacity; returns whether that was accepted. A refusal, of a quota
        say, is told once."""
        resource, dimension = target["ResourceId"], target["ScalableDimension"]
        endpoint, variant = endpoint_and_variant(resource)
        change = change_of(variant, dimension, count)
        what, capacity = count_words(dimension, count), CAPACITIES[dimension]
        try:
            await self._endpoints.update_weights_and_capacities(
                {"EndpointName": endpoint, "DesiredWeightsAndCapacities": [change]}
            )
        except ServiceError as error:
            message = f"Failed to set {capacity} to {count}. Reason: {error.message}"
            if self._activities.latest_message(resource) != message:
                self._activities.note(target, what, cause, "Failed", message)
            return False
        message = (
            f"Successfully set {capacity} to {count}. Waiting for change to be fulfilled by "
            f"sagemaker."
        )
        self._activities.note(target, what, cause, "InProgress", message)
        return True

    async def _forget(self, resource: str) -> None:
        target = self._cloud.store.get(TARGET, resource)
        if target is not None:
            self._cloud.store.delete("tags", target["ScalableTargetARN"])
        await self._policies.forget(resource)
        self._cloud.store.delete(TARGET, resource)
        for key, action in self._cloud.store.all(_ACTION):
            if action["ResourceId"] == resource:
                self._cloud.store.delete(_ACTION, key)

    def _known(self, params: dict[str, Any]) -> Document:
        resource = params["ResourceId"]
        target = self._cloud.store.get(TARGET, resource)
        if target is None or target["ScalableDimension"] != params["ScalableDimension"]:
            raise ServiceError(
                "ObjectNotFoundException",
                f"No scalable target found for service namespace: {NAMESPACE}, resource ID: "
                f"{resource}, scalable dimension: {params['ScalableDimension']}",
            )
        return target

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._cloud.clock.now(), UTC)

    def _arn(self, rest: str) -> str:
        settings = self._cloud.settings
        service = "autoscaling" if rest.startswith("scheduledAction") else "application-autoscaling"
        return f"arn:aws:{service}:{settings.region}:{settings.account_id}:{rest}"

    def _role(self) -> str:
        return (
            f"arn:aws:iam::{self._cloud.settings.account_id}:role/aws-service-role/"
            f"sagemaker.application-autoscaling.amazonaws.com/"
            f"AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
        )


def _check_bounds(least: int, most: int) -> None:
    if least < 0 or most < 0:
        raise validation("MinCapacity and MaxCapacity must be 0 or more.")
    if least > most:
        raise validation(
            f"Maximum capacity cannot be less than minimum capacity: {most} is less than {least}."
        )


def _schedule(action: Document) -> Schedule:
    """Raises InvalidScheduleError."""
    start, end = (
        None if action.get(name) is None else datetime.fromtimestamp(action[name], UTC)
        for name in ("StartTime", "EndTime")
    )
    return Schedule.parse(action["Schedule"], action.get("Timezone"), start, end)
