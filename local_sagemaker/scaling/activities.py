"""Scaling activities: what was changed about a scalable target, why, and how it ended.

Their words: docs.aws.amazon.com/autoscaling/application/userguide/
application-auto-scaling-scaling-activities.html.
"""

import uuid
from typing import Any, Final

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.state import Document
from local_sagemaker.errors import not_emulated
from local_sagemaker.scaling.scope import CAPACITIES, NAMESPACE, is_of, page_of

_ACTIVITY: Final = "scaling-activity"
_MOST: Final = 1000


class Activities:
    """The activities of all targets; the newest thousand are kept."""

    def __init__(self, cloud: Cloud) -> None:
        self._clock, self._store = cloud.clock, cloud.store

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeScalingActivities, the latest first."""
        if params.get("IncludeNotScaledActivities"):
            raise not_emulated("DescribeScalingActivities.IncludeNotScaledActivities")
        found = [one for _, one in self._store.all(_ACTIVITY) if is_of(one, params)]
        found.sort(key=lambda activity: activity["StartTime"], reverse=True)
        return page_of("ScalingActivities", found, params)

    def note(self, target: Document, what: str, cause: str, status: str, message: str) -> None:
        """Keep an activity of a target, which begins now."""
        kept = list(self._store.all(_ACTIVITY))
        for name, _ in kept[: max(0, len(kept) - _MOST + 1)]:
            self._store.delete(_ACTIVITY, name)
        activity = str(uuid.uuid4())
        document: Document = {
            "ActivityId": activity,
            "ServiceNamespace": NAMESPACE,
            "ResourceId": target["ResourceId"],
            "ScalableDimension": target["ScalableDimension"],
            "Description": what,
            "Cause": cause,
            "StartTime": self._clock.now(),
            "StatusCode": status,
            "StatusMessage": message,
        }
        if status != "InProgress":
            document["EndTime"] = document["StartTime"]
        self._store.put(_ACTIVITY, activity, document)

    def end(self, resource: str, endpoint: Document, count: int) -> None:
        """End those whose change has come to its end, when the endpoint has this capacity."""
        for name, activity in self._store.all(_ACTIVITY):
            if activity["ResourceId"] != resource or activity["StatusCode"] != "InProgress":
                continue
            dimension = activity["ScalableDimension"]
            reached = activity["Description"] == count_words(dimension, count)
            activity |= {
                "EndTime": self._clock.now(),
                "StatusCode": "Successful" if reached else "Failed",
                "StatusMessage": f"Successfully set {CAPACITIES[dimension]} to {count}. Change "
                f"successfully fulfilled by sagemaker."
                if reached
                else f"Failed. Reason: {endpoint.get('FailureReason', 'it was changed again')}",
            }
            self._store.put(_ACTIVITY, name, activity)

    def latest_message(self, resource: str) -> str:
        """The StatusMessage of a target's latest activity; empty without one."""
        of_target = (one for _, one in self._store.all(_ACTIVITY) if one["ResourceId"] == resource)
        latest = max(of_target, key=lambda activity: float(activity["StartTime"]), default={})
        return str(latest.get("StatusMessage", ""))


def count_words(dimension: str, count: int) -> str:
    """The description of a change of capacity."""
    return f"Setting {CAPACITIES[dimension]} to {count}."
