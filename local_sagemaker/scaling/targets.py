"""Application Auto Scaling for the variants of endpoints: scalable targets, scheduled actions, and
the activities that follow.

Sources: docs.aws.amazon.com/autoscaling/application/APIReference/ (the operations of the same
names), and …/autoscaling/application/userguide/application-auto-scaling-scaling-activities.html for
the words of activities.
"""

import asyncio
import logging
import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from local_sagemaker.account.cloud import Cloud, Operation
from local_sagemaker.account.state import Document
from local_sagemaker.endpoints.endpoints import Endpoints
from local_sagemaker.errors import ServiceError, not_emulated, validation
from local_sagemaker.scaling.schedules import InvalidScheduleError, Schedule

_log = logging.getLogger(__name__)
NAMESPACE: Final = "sagemaker"
DIMENSION: Final = "sagemaker:variant:DesiredInstanceCount"
_TARGET: Final = "scalable-target"
_ACTION: Final = "scheduled-action"
_ACTIVITY: Final = "scaling-activity"
_RESOURCE: Final = re.compile(r"endpoint/([A-Za-z0-9-]{1,63})/variant/([A-Za-z0-9-]{1,63})")
_LOOK_SECONDS: Final = 1.0
_MOST_ACTIVITIES: Final = 1000
_PAGE: Final = 50
_SUSPENDABLE: Final = (
    "DynamicScalingInSuspended",
    "DynamicScalingOutSuspended",
    "ScheduledScalingSuspended",
)


class ScalableTargets:
    """The scalable targets of the account. Once a second their capacity is brought within its
    bounds, and scheduled actions that are due change the bounds."""

    def __init__(self, cloud: Cloud, endpoints: Endpoints) -> None:
        self._cloud = cloud
        self._endpoints = endpoints
        self._looking: asyncio.Task[None] | None = None
        self.operations: dict[str, Operation] = {
            "RegisterScalableTarget": self.register,
            "DescribeScalableTargets": self.describe,
            "DeregisterScalableTarget": self.deregister,
            "PutScheduledAction": self.put_action,
            "DescribeScheduledActions": self.describe_actions,
            "DeleteScheduledAction": self.delete_action,
            "DescribeScalingActivities": self.describe_activities,
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
        resource = _resource(params)
        endpoint, variant = _endpoint_and_variant(resource)
        known = self._cloud.store.get(_TARGET, resource)
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
        target = known or {
            "ServiceNamespace": NAMESPACE,
            "ResourceId": resource,
            "ScalableDimension": DIMENSION,
            "RoleARN": self._role(),
            "CreationTime": time.time(),
            "SuspendedState": dict.fromkeys(_SUSPENDABLE, False),
            "ScalableTargetARN": self._arn(f"scalable-target/{uuid.uuid4().hex}"),
        }
        bounds: dict[str, int] = {
            name: params[name] if name in params else target[name]
            for name in ("MinCapacity", "MaxCapacity")
        }
        _check_bounds(bounds["MinCapacity"], bounds["MaxCapacity"])
        if bounds["MinCapacity"] == 0 and "AsyncInferenceConfig" not in described:
            raise validation(
                f"MinCapacity must be at least 1 for {resource}: a variant that answers in real "
                f"time cannot go to zero."
            )
        target |= bounds
        target["SuspendedState"] = target["SuspendedState"] | params.get("SuspendedState", {})
        self._cloud.store.put(_TARGET, resource, target)
        if known is None:
            tags = [{"Key": key, "Value": value} for key, value in params.get("Tags", {}).items()]
            self._cloud.put_tags(target["ScalableTargetARN"], tags)
        return {"ScalableTargetARN": target["ScalableTargetARN"]}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeScalableTargets."""
        wanted = params.get("ResourceIds", [])
        found = [
            target
            for resource, target in self._cloud.store.all(_TARGET)
            if _is_of(target, params) and (not wanted or resource in wanted)
        ]
        return _page("ScalableTargets", found, params)

    async def deregister(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeregisterScalableTarget: its scheduled actions go with it; the capacity stays."""
        resource = _resource(params)
        self._known(resource)
        self._forget(resource)
        return {}

    # ---- scheduled actions -----------------------------------------------------------------------

    async def put_action(self, params: dict[str, Any]) -> dict[str, Any]:
        """PutScheduledAction: a new one, or another schedule or action for one of this name. Start
        and end that are not named again are gone."""
        resource = _resource(params)
        target = self._known(resource)
        key = _key(resource, params["ScheduledActionName"])
        known = self._cloud.store.get(_ACTION, key)
        action = known or {
            "ScheduledActionName": params["ScheduledActionName"],
            "ServiceNamespace": NAMESPACE,
            "ResourceId": resource,
            "ScalableDimension": DIMENSION,
            "CreationTime": time.time(),
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
            following = _schedule(action).next_after(datetime.now(UTC))
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
            if _is_of(action, params) and (not wanted or action["ScheduledActionName"] in wanted)
        ]
        return _page("ScheduledActions", found, params)

    async def delete_action(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteScheduledAction."""
        resource, name = _resource(params), params["ScheduledActionName"]
        if self._cloud.store.get(_ACTION, _key(resource, name)) is None:
            raise ServiceError(
                "ObjectNotFoundException",
                f"No scheduled action found for service namespace: {NAMESPACE}, resource ID: "
                f"{resource}, scalable dimension: {DIMENSION}, scheduled action name: {name}",
            )
        self._cloud.store.delete(_ACTION, _key(resource, name))
        return {}

    # ---- activities ------------------------------------------------------------------------------

    async def describe_activities(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeScalingActivities, the latest first."""
        if params.get("IncludeNotScaledActivities"):
            raise not_emulated("DescribeScalingActivities.IncludeNotScaledActivities")
        found = [
            activity for _, activity in self._cloud.store.all(_ACTIVITY) if _is_of(activity, params)
        ]
        found.sort(key=lambda activity: activity["StartTime"], reverse=True)
        return _page("ScalingActivities", found, params)

    def _note(self, resource: str, description: str, cause: str, status: str, message: str) -> str:
        """Keep an activity; returns its id."""
        activities = list(self._cloud.store.all(_ACTIVITY))
        for name, _ in activities[: max(0, len(activities) - _MOST_ACTIVITIES + 1)]:
            self._cloud.store.delete(_ACTIVITY, name)
        activity = str(uuid.uuid4())
        document: Document = {
            "ActivityId": activity,
            "ServiceNamespace": NAMESPACE,
            "ResourceId": resource,
            "ScalableDimension": DIMENSION,
            "Description": description,
            "Cause": cause,
            "StartTime": time.time(),
            "StatusCode": status,
            "StatusMessage": message,
        }
        if status != "InProgress":
            document["EndTime"] = document["StartTime"]
        self._cloud.store.put(_ACTIVITY, activity, document)
        return activity

    # ---- what happens by itself ------------------------------------------------------------------

    async def _look_for_ever(self) -> None:
        while True:
            for resource, target in self._cloud.store.all(_TARGET):
                try:
                    self._run_due_actions(resource, target)
                    await self._keep_within_bounds(resource, target)
                except Exception:  # noqa: BLE001 - the other targets are looked after
                    _log.exception("scalable target %s", resource)
            await asyncio.sleep(_LOOK_SECONDS)

    def _run_due_actions(self, resource: str, target: Document) -> None:
        """Give the target the bounds of each scheduled action that is due, the longest due first.
        One that was due several times runs once."""
        now = time.time()
        actions = self._cloud.store.all(_ACTION)
        due = [a for _, a in actions if a["ResourceId"] == resource and a["Next"] <= now]
        for action in sorted(due, key=lambda action: float(action["Next"])):
            if not target["SuspendedState"]["ScheduledScalingSuspended"]:
                self._run_action(resource, target, action)
            key = _key(resource, action["ScheduledActionName"])
            following = _schedule(action).next_after(datetime.fromtimestamp(now, UTC))
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
            self._note(resource, f"Setting {words}", cause, "Failed", message)
            return
        target |= bounds
        self._cloud.store.put(_TARGET, resource, target)
        self._note(resource, f"Setting {words}", cause, "Successful", f"Successfully set {words}")

    async def _keep_within_bounds(self, resource: str, target: Document) -> None:
        endpoint, variant = _endpoint_and_variant(resource)
        described = self._endpoints.get(endpoint)
        if described is None:
            self._forget(resource)  # as its endpoint is gone
            return
        counts = {one["VariantName"]: one["DesiredInstanceCount"] for one in described["Variants"]}
        if variant not in counts:
            self._forget(resource)
            return
        self._end_activities(resource, described, counts[variant])
        if described["EndpointStatus"] != "InService":
            return
        least, most = target["MinCapacity"], target["MaxCapacity"]
        wanted = min(max(counts[variant], least), most)
        if wanted == counts[variant]:
            return
        bound = "minimum" if counts[variant] < least else "maximum"
        what = f"Setting desired instance count to {wanted}."
        cause = f"{bound} capacity was set to {wanted}"
        change = {"VariantName": variant, "DesiredInstanceCount": wanted}
        try:
            await self._endpoints.update_weights_and_capacities(
                {"EndpointName": endpoint, "DesiredWeightsAndCapacities": [change]}
            )
        except ServiceError as error:  # a quota, say: told once, and tried again
            message = f"Failed to set desired instance count to {wanted}. Reason: {error.message}"
            if self._latest(resource).get("StatusMessage") != message:
                self._note(resource, what, cause, "Failed", message)
            return
        message = f"Successfully set desired instance count to {wanted}. Waiting for change to be "
        self._note(resource, what, cause, "InProgress", f"{message}fulfilled by sagemaker.")

    def _end_activities(self, resource: str, described: Document, count: int) -> None:
        """End the activities whose change has come to its end."""
        if described["EndpointStatus"] != "InService":
            return
        for name, activity in self._cloud.store.all(_ACTIVITY):
            if activity["ResourceId"] != resource or activity["StatusCode"] != "InProgress":
                continue
            reached = activity["Description"] == f"Setting desired instance count to {count}."
            activity |= {
                "EndTime": time.time(),
                "StatusCode": "Successful" if reached else "Failed",
                "StatusMessage": f"Successfully set desired instance count to {count}. Change "
                f"successfully fulfilled by sagemaker."
                if reached
                else f"Failed. Reason: {described.get('FailureReason', 'it was changed again')}",
            }
            self._cloud.store.put(_ACTIVITY, name, activity)

    def _latest(self, resource: str) -> Document:
        of_target = (a for _, a in self._cloud.store.all(_ACTIVITY) if a["ResourceId"] == resource)
        return max(of_target, key=lambda activity: float(activity["StartTime"]), default={})

    def _forget(self, resource: str) -> None:
        target = self._cloud.store.get(_TARGET, resource)
        if target is not None:
            self._cloud.store.delete("tags", target["ScalableTargetARN"])
        self._cloud.store.delete(_TARGET, resource)
        for key, action in self._cloud.store.all(_ACTION):
            if action["ResourceId"] == resource:
                self._cloud.store.delete(_ACTION, key)

    def _known(self, resource: str) -> Document:
        target = self._cloud.store.get(_TARGET, resource)
        if target is None:
            raise ServiceError(
                "ObjectNotFoundException",
                f"No scalable target found for service namespace: {NAMESPACE}, resource ID: "
                f"{resource}, scalable dimension: {DIMENSION}",
            )
        return target

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


def _resource(params: dict[str, Any]) -> str:
    """The target that a request names. Raises ValidationException where it is not a variant's."""
    _check_scope(params)
    return str(params["ResourceId"])


def _check_scope(params: dict[str, Any]) -> None:
    if params["ServiceNamespace"] != NAMESPACE:
        raise not_emulated(f"ServiceNamespace {params['ServiceNamespace']}")
    if params.get("ScalableDimension", DIMENSION) != DIMENSION:
        raise not_emulated(f"ScalableDimension {params['ScalableDimension']}")


def _endpoint_and_variant(resource: str) -> tuple[str, str]:
    found = _RESOURCE.fullmatch(resource)
    if found is None:
        raise validation(
            f"Unsupported service namespace, resource type or scalable dimension: {resource!r} is "
            f"not endpoint/NAME/variant/NAME"
        )
    return found[1], found[2]


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


def _key(resource: str, action: str) -> str:
    return f"{resource}\n{action}"


def _is_of(document: Document, params: dict[str, Any]) -> bool:
    """Whether a document is of the resource that a Describe call names, if it names one."""
    _check_scope(params)
    return bool(params.get("ResourceId", document["ResourceId"]) == document["ResourceId"])


def _page(member: str, found: list[Document], params: dict[str, Any]) -> dict[str, Any]:
    """One page; the token is the place of the next entry."""
    _check_scope(params)
    token = params.get("NextToken") or "0"
    if not re.fullmatch(r"\d{1,6}", token):
        raise ServiceError("InvalidNextTokenException", "The next token is not valid.")
    count = params.get("MaxResults", _PAGE)
    if not 1 <= count <= _PAGE:
        raise validation(f"MaxResults must be from 1 to {_PAGE}.")
    start = int(token)
    following = {"NextToken": str(start + count)} if len(found) > start + count else {}
    return {member: found[start : start + count], **following}
