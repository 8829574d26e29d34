"""Metric alarms: CloudWatch's operations on them, and their evaluation once a minute.

Sources: docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html, and
…/AmazonCloudWatch/latest/monitoring/alarm-evaluation.html.
"""

import asyncio
import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.cloud import Cloud, Operation
from local_sagemaker.account.state import Document
from local_sagemaker.errors import ServiceError, not_emulated
from local_sagemaker.monitoring.alarm_states import Alarm, State
from local_sagemaker.monitoring.metric_operations import invalid
from local_sagemaker.monitoring.queries import InvalidQueryError, Queries
from local_sagemaker.monitoring.statistics import MINUTE, Statistics

_log = logging.getLogger(__name__)
_ALARM: Final = "metric-alarm"
_ACTIONS: Final[Mapping[State, str]] = {
    "ALARM": "AlarmActions",
    "OK": "OKActions",
    "INSUFFICIENT_DATA": "InsufficientDataActions",
}
_SETTINGS: Final = (
    "AlarmDescription",
    "ActionsEnabled",
    "OKActions",
    "AlarmActions",
    "InsufficientDataActions",
    "MetricName",
    "Namespace",
    "Statistic",
    "ExtendedStatistic",
    "Dimensions",
    "Period",
    "Unit",
    "EvaluationPeriods",
    "DatapointsToAlarm",
    "Threshold",
    "ComparisonOperator",
    "TreatMissingData",
    "Metrics",
)
_LONGEST_SECONDS: Final = 86_400
"""EvaluationPeriods times Period may be no more than a day, where a period is below an hour."""


@dataclass(frozen=True)
class Acting:
    """An alarm in a state that has an action: its name, the state, and how far the latest value is
    above its threshold; None without a value."""

    name: str
    state: State
    breach: float | None


class Alarms:
    """The metric alarms of the account."""

    def __init__(self, cloud: Cloud, statistics: Statistics) -> None:
        self._cloud = cloud
        self._statistics = statistics
        self._evaluated = -1
        self._tellings: set[asyncio.Task[None]] = set()
        self._watches: list[tuple[Collection[str], asyncio.Future[str]]] = []
        self.operations: dict[str, Operation] = {
            "PutMetricAlarm": self.put,
            "DescribeAlarms": self.describe,
            "DescribeAlarmsForMetric": self.describe_for_metric,
            "DeleteAlarms": self.delete,
            "SetAlarmState": self.set_state,
            "EnableAlarmActions": self.enable_actions,
            "DisableAlarmActions": self.disable_actions,
        }

    # ---- operations ------------------------------------------------------------------------------

    async def put(self, params: dict[str, Any]) -> dict[str, Any]:
        """PutMetricAlarm: a new alarm, or other settings of one; its state stays."""
        _check(params)
        now, name = self._cloud.clock.now(), params["AlarmName"]
        before = self._cloud.store.get(_ALARM, name)
        settings = self._cloud.settings
        alarm: Document = {
            "AlarmName": name,
            "AlarmArn": f"arn:aws:cloudwatch:{settings.region}:{settings.account_id}:alarm:{name}",
            "ActionsEnabled": True,
            "OKActions": [],
            "AlarmActions": [],
            "InsufficientDataActions": [],
            "Dimensions": [],
            "StateValue": "INSUFFICIENT_DATA",
            "StateReason": "Unchecked: Initial alarm creation",
            "StateUpdatedTimestamp": now,
            "StateTransitionedTimestamp": now,
            **{name: value for name, value in (before or {}).items() if name.startswith("State")},
            "AlarmConfigurationUpdatedTimestamp": now,
            **{member: params[member] for member in _SETTINGS if params.get(member) is not None},
        }
        self._cloud.store.put(_ALARM, name, alarm)
        return {}

    async def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeAlarms."""
        names = params.get("AlarmNames", [])
        if "MetricAlarm" not in params.get("AlarmTypes", ["MetricAlarm"]):
            return {"MetricAlarms": [], "CompositeAlarms": []}  # there are no others
        if names and params.get("AlarmNamePrefix"):
            raise ServiceError(
                "InvalidParameterCombination",
                "AlarmNames and AlarmNamePrefix cannot be in one request.",
            )
        found = [
            _shown(alarm)
            for name, alarm in sorted(self._cloud.store.all(_ALARM))
            if (not names or name in names)
            and name.startswith(params.get("AlarmNamePrefix", ""))
            and params.get("StateValue", alarm["StateValue"]) == alarm["StateValue"]
            and (
                "ActionPrefix" not in params
                or any(one.startswith(params["ActionPrefix"]) for one in _all_actions(alarm))
            )
        ]
        token = params.get("NextToken") or "0"
        if not token.isdecimal():
            raise ServiceError("InvalidNextToken", "The next token is not valid.")
        start = int(token)
        end = start + params.get("MaxRecords", 50)
        following = {"NextToken": str(end)} if len(found) > end else {}
        return {"MetricAlarms": found[start:end], "CompositeAlarms": [], **following}

    async def describe_for_metric(self, params: dict[str, Any]) -> dict[str, Any]:
        """DescribeAlarmsForMetric."""
        wanted = ("MetricName", "Namespace", "Statistic", "ExtendedStatistic", "Period", "Unit")

        def dimensions(document: Mapping[str, Any]) -> set[tuple[str, str]]:
            return {(one["Name"], one["Value"]) for one in document.get("Dimensions", [])}

        found = [
            _shown(alarm)
            for _, alarm in self._cloud.store.all(_ALARM)
            if all(alarm.get(name) == params[name] for name in wanted if name in params)
            and dimensions(alarm) == dimensions(params)
        ]
        return {"MetricAlarms": found}

    async def delete(self, params: dict[str, Any]) -> dict[str, Any]:
        """DeleteAlarms: those that are there."""
        for name in params["AlarmNames"]:
            self._cloud.store.delete(_ALARM, name)
        return {}

    async def set_state(self, params: dict[str, Any]) -> dict[str, Any]:
        """SetAlarmState: until the next evaluation."""
        alarm = self._known(params["AlarmName"])
        self._move(alarm, params["StateValue"], params["StateReason"])
        return {}

    async def enable_actions(self, params: dict[str, Any]) -> dict[str, Any]:
        """EnableAlarmActions."""
        self._switch_actions(params["AlarmNames"], on=True)
        return {}

    async def disable_actions(self, params: dict[str, Any]) -> dict[str, Any]:
        """DisableAlarmActions."""
        self._switch_actions(params["AlarmNames"], on=False)
        return {}

    def _switch_actions(self, names: list[str], *, on: bool) -> None:
        for name in names:
            if alarm := self._cloud.store.get(_ALARM, name):
                self._cloud.store.put(_ALARM, name, alarm | {"ActionsEnabled": on})

    def _known(self, name: str) -> Document:
        alarm = self._cloud.store.get(_ALARM, name)
        if alarm is None:
            raise ServiceError("ResourceNotFound", f"There is no alarm {name}.", 404)
        return alarm

    # ---- evaluation ------------------------------------------------------------------------------

    def evaluate(self) -> bool:
        """Bring the state of every alarm up to the last whole minute, unless that is done. Returns
        whether it was a new minute."""
        minute = int(self._statistics.now() // MINUTE)
        if minute == self._evaluated:
            return False
        self._evaluated = minute
        for name, alarm in self._cloud.store.all(_ALARM):
            try:
                values = self._values(alarm, minute * MINUTE)
            except Exception:  # noqa: BLE001 - the other alarms are evaluated
                _log.exception("alarm %s", name)
                continue
            state = _rule(alarm).state(values, alarm["StateValue"])
            if state != alarm["StateValue"]:
                self._move(alarm, state, _reason(alarm, state, values))
            alarm["Breach"] = None if values[-1] is None else values[-1] - alarm["Threshold"]
        return True

    def _values(self, alarm: Document, end: float) -> list[float | None]:
        queries = _queries(alarm)
        start = end - _rule(alarm).range * queries.period
        return queries.values(self._statistics, start, end)[queries.returned.id]

    def acting(self, action: str) -> list[Acting]:
        """The alarms that are in a state with this action."""
        return [
            Acting(name, alarm["StateValue"], alarm.get("Breach"))
            for name, alarm in self._cloud.store.all(_ALARM)
            if alarm["ActionsEnabled"] and action in alarm[_ACTIONS[alarm["StateValue"]]]
        ]

    def with_action(self, action: str) -> list[dict[str, str]]:
        """AlarmName and AlarmARN of the alarms that name an action."""
        return [
            {"AlarmName": name, "AlarmARN": alarm["AlarmArn"]}
            for name, alarm in self._cloud.store.all(_ALARM)
            if action in _all_actions(alarm)
        ]

    def exists(self, name: str) -> bool:
        """Whether there is an alarm of this name."""
        return self._cloud.store.get(_ALARM, name) is not None

    async def in_alarm(self, names: Collection[str]) -> str:
        """Wait until one of these alarms is in ALARM. Returns its name."""
        for name, alarm in self._cloud.store.all(_ALARM):
            if name in names and alarm["StateValue"] == "ALARM":
                return name
        tripped: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        watch = (names, tripped)
        self._watches.append(watch)
        try:
            return await tripped
        finally:
            self._watches.remove(watch)

    def _move(self, alarm: Document, state: State, reason: str) -> None:
        """Enter a state, and tell the topics that it names."""
        for names, tripped in self._watches:
            if state == "ALARM" and alarm["AlarmName"] in names and not tripped.done():
                tripped.set_result(alarm["AlarmName"])
        before, now = alarm["StateValue"], self._cloud.clock.now()
        alarm |= {"StateValue": state, "StateReason": reason, "StateUpdatedTimestamp": now}
        if state != before:
            alarm["StateTransitionedTimestamp"] = now
        self._cloud.store.put(_ALARM, alarm["AlarmName"], alarm)
        if state == before or not alarm["ActionsEnabled"]:
            return
        for action in alarm[_ACTIONS[state]]:
            if ":sns:" in action:
                task = asyncio.create_task(self._tell(action, alarm | {"Before": before}))
                self._tellings.add(task)
                task.add_done_callback(self._tellings.discard)

    async def _tell(self, topic: str, alarm: Document) -> None:
        settings = self._cloud.settings
        message = {
            "AlarmName": alarm["AlarmName"],
            "AlarmDescription": alarm.get("AlarmDescription"),
            "AWSAccountId": settings.account_id,
            "NewStateValue": alarm["StateValue"],
            "NewStateReason": alarm["StateReason"],
            "StateChangeTime": datetime.fromtimestamp(
                alarm["StateUpdatedTimestamp"], UTC
            ).isoformat(timespec="milliseconds"),
            "Region": settings.region,
            "AlarmArn": alarm["AlarmArn"],
            "OldStateValue": alarm["Before"],
            "Trigger": {name: alarm[name] for name in _SETTINGS if name in alarm},
        }
        subject = f'{alarm["StateValue"]}: "{alarm["AlarmName"]}" in {settings.region}'
        try:
            await asyncio.to_thread(
                self._cloud.sns.publish,
                TopicArn=topic,
                Subject=subject[:100],
                Message=json.dumps(message),
            )
        except (ClientError, BotoCoreError) as error:
            _log.error("alarm %s could not tell %s: %s", alarm["AlarmName"], topic, error)


def _check(params: Mapping[str, Any]) -> None:
    """Raises ServiceError for an alarm that could not be evaluated."""
    for member in ("EvaluationPeriods", "ComparisonOperator", "Threshold"):
        if params.get(member) is None:
            raise ServiceError("MissingParameter", f"{member} must be specified.")
    if params["ComparisonOperator"] not in (
        "GreaterThanThreshold",
        "GreaterThanOrEqualToThreshold",
        "LessThanThreshold",
        "LessThanOrEqualToThreshold",
    ):
        raise not_emulated(f"PutMetricAlarm.ComparisonOperator {params['ComparisonOperator']}")
    needed = params.get("DatapointsToAlarm")
    if needed is not None and needed > params["EvaluationPeriods"]:
        raise invalid("DatapointsToAlarm must be at most EvaluationPeriods.")
    if params.get("TreatMissingData", "missing") not in (
        "missing",
        "breaching",
        "notBreaching",
        "ignore",
    ):
        raise invalid(
            "TreatMissingData must be one of breaching, notBreaching, ignore and missing."
        )
    if (params.get("MetricName") is None) == (not params.get("Metrics")):
        raise ServiceError(
            "InvalidParameterCombination",
            "An alarm must have MetricName or Metrics, one of the two.",
        )
    if params.get("MetricName") is not None:
        for member in ("Namespace", "Period"):
            if params.get(member) is None:
                raise ServiceError("MissingParameter", f"{member} must be specified.")
        if (params.get("Statistic") is None) == (params.get("ExtendedStatistic") is None):
            raise ServiceError(
                "InvalidParameterCombination",
                "An alarm must have Statistic or ExtendedStatistic, one of the two.",
            )
    try:
        queries = _queries(params)
        queries.returned  # noqa: B018 - which raises
    except InvalidQueryError as error:
        raise ServiceError("ValidationError", f"{error}.") from error
    if queries.period % MINUTE:
        raise not_emulated(f"An alarm with a period of {queries.period} seconds")
    if queries.period * params["EvaluationPeriods"] > _LONGEST_SECONDS:
        raise ServiceError(
            "ValidationError", "Metrics cannot be checked across more than a day (86400 seconds)."
        )


def _queries(alarm: Mapping[str, Any]) -> Queries:
    """Raises InvalidQueryError."""
    if alarm.get("Metrics"):
        return Queries.parse(alarm["Metrics"])
    statistic = alarm.get("Statistic") or alarm["ExtendedStatistic"]
    stat = {"Metric": alarm, "Stat": statistic, "Period": alarm["Period"]}
    return Queries.parse([{"Id": "m1", "MetricStat": stat}])


def _rule(alarm: Mapping[str, Any]) -> Alarm:
    return Alarm(
        alarm["Threshold"],
        alarm["ComparisonOperator"],
        alarm["EvaluationPeriods"],
        alarm.get("DatapointsToAlarm", alarm["EvaluationPeriods"]),
        alarm.get("TreatMissingData", "missing"),
    )


def _reason(alarm: Mapping[str, Any], state: State, values: list[float | None]) -> str:
    there = [f"{value:g}" for value in reversed(values) if value is not None]
    there = there[: alarm["EvaluationPeriods"]]
    if state == "INSUFFICIENT_DATA":
        return f"Insufficient Data: {alarm['EvaluationPeriods']} datapoints were unknown."
    words = "was" if state == "ALARM" else "was not"
    return (
        f"Threshold Crossed: of the last {len(there)} datapoints [{', '.join(there)}] at least "
        f"{alarm.get('DatapointsToAlarm', alarm['EvaluationPeriods'])} {words} "
        f"{alarm['ComparisonOperator']} ({alarm['Threshold']:g})."
    )


def _shown(alarm: Document) -> Document:
    return {name: value for name, value in alarm.items() if name != "Breach"}


def _all_actions(alarm: Mapping[str, Any]) -> list[str]:
    return [action for member in _ACTIONS.values() for action in alarm[member]]
