"""CloudWatch's metrics and alarms, through boto3 unchanged."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from infrastructure.local_cloud import LocalCloud
from tests.local_sagemaker.conftest import Emulator, unique, wait_for


@pytest.fixture(scope="module")
def cloudwatch(paced_emulator: Emulator) -> Any:
    return paced_emulator.client("cloudwatch")


@pytest.fixture(scope="module")
def real_time(emulator: Emulator) -> Any:
    """Of an emulator whose minutes are minutes."""
    return emulator.client("cloudwatch")


def put(client: Any, namespace: str, name: str, value: float = 1.0, **more: Any) -> None:
    client.put_metric_data(
        Namespace=namespace, MetricData=[{"MetricName": name, "Value": value, **more}]
    )


def dimension(value: str) -> list[dict[str, str]]:
    return [{"Name": "EndpointName", "Value": value}]


def query(name: str, namespace: str, metric: str, stat: str = "Sum", **more: Any) -> dict[str, Any]:
    described = {"Namespace": namespace, "MetricName": metric, **more}
    return {"Id": name, "MetricStat": {"Metric": described, "Period": 60, "Stat": stat}}


def test_each_endpoint_has_a_series_of_its_own(real_time: Any) -> None:
    namespace = unique("n")
    # The end of three minutes that are one period of three minutes.
    minute = datetime.fromtimestamp(time.time() // 180 * 180, UTC)
    for ago, endpoint, value in ((2, "a", 1.0), (2, "a", 3.0), (1, "a", 5.0), (1, "b", 100.0)):
        put(
            real_time,
            namespace,
            "m",
            value,
            Dimensions=dimension(endpoint),
            Timestamp=minute - timedelta(minutes=ago),
        )
    window = {"StartTime": minute - timedelta(minutes=3), "EndTime": minute}
    found = real_time.get_metric_data(
        MetricDataQueries=[
            query("a", namespace, "m", Dimensions=dimension("a")),
            query("b", namespace, "m", Dimensions=dimension("b")) | {"ReturnData": False},
            {"Id": "e", "Expression": "FILL(b, 0) + a", "Label": "both"},
        ],
        ScanBy="TimestampAscending",
        **window,
    )["MetricDataResults"]
    assert [(one["Id"], one["Label"], one["Values"]) for one in found] == [
        ("a", "m", [4.0, 5.0]),
        ("e", "both", [4.0, 105.0]),
    ]
    assert found[0]["Timestamps"] == [minute - timedelta(minutes=ago) for ago in (2, 1)]
    (point,) = real_time.get_metric_statistics(
        Namespace=namespace,
        MetricName="m",
        Dimensions=dimension("a"),
        Period=180,
        Statistics=["Average", "Maximum", "SampleCount"],
        ExtendedStatistics=["p50"],
        StartTime=minute - timedelta(minutes=30),
        EndTime=minute + timedelta(minutes=30),
    )["Datapoints"] or [None]
    assert (point["Average"], point["Maximum"], point["SampleCount"]) == (3.0, 5.0, 3.0)
    assert point["ExtendedStatistics"] == {"p50": 3.0}
    listed = real_time.list_metrics(Namespace=namespace, Dimensions=[{"Name": "EndpointName"}])[
        "Metrics"
    ]
    assert [one["Dimensions"][0]["Value"] for one in listed] == ["a", "b"]


def test_many_values_come_in_one_compressed_request(real_time: Any) -> None:
    namespace = unique("n")
    data: list[dict[str, Any]] = [
        {"MetricName": f"metric-{number}", "Values": [1.0, 2.5], "Counts": [3.0, 2.0]}
        for number in range(900)
    ]
    data[0] = {
        "MetricName": "metric-0",
        "StatisticValues": {"SampleCount": 2, "Sum": 9, "Minimum": 4, "Maximum": 5},
    }
    real_time.put_metric_data(Namespace=namespace, MetricData=data)
    now = datetime.now(UTC)
    found = real_time.get_metric_data(
        MetricDataQueries=[
            query("s", namespace, "metric-0", "Maximum"),
            query("v", namespace, "metric-899", "Average"),
        ],
        StartTime=now - timedelta(minutes=5),
        EndTime=now + timedelta(minutes=5),
    )["MetricDataResults"]
    assert [one["Values"] for one in found] == [[5.0], [1.6]]


@pytest.mark.parametrize(
    ("queries", "why"),
    [
        ([{"Id": "e", "Expression": "m1 + 1"}], "is about m1, which is no query's Id"),
        ([{"Id": "a", "Expression": "b"}, {"Id": "b", "Expression": "a"}], "is about itself"),
        ([query("a", "N", "m"), query("a", "N", "m")], "two queries have the same Id"),
        ([{"Id": "a"}], "must have MetricStat or Expression"),
        ([query("a", "N", "m", "Median")], "'Median' is no statistic"),
        ([{"Id": "a", "Expression": "SEARCH('x')"}], "is not understood"),
    ],
)
def test_queries_that_cannot_be_answered_are_refused(
    real_time: Any, queries: list[Any], why: str
) -> None:
    now = datetime.now(UTC)
    with pytest.raises(ClientError, match=why) as error:
        real_time.get_metric_data(
            MetricDataQueries=queries, StartTime=now - timedelta(hours=1), EndTime=now
        )
    assert error.value.response["Error"]["Code"] == "ValidationError"


@pytest.mark.parametrize(
    ("datum", "why"),
    [
        ({"Value": 1.0, "Values": [1.0]}, "must have one of Value, Values"),
        ({"Values": [1.0, 2.0], "Counts": [1.0]}, "as many Counts as Values"),
        ({"Value": 2.0**361}, "not a number from"),
        ({}, "must have one of"),
    ],
)
def test_data_that_could_not_be_kept_are_refused_as_a_whole(
    real_time: Any, datum: dict[str, Any], why: str
) -> None:
    namespace = unique("n")
    with pytest.raises(ClientError, match=why):
        real_time.put_metric_data(
            Namespace=namespace,
            MetricData=[{"MetricName": "good", "Value": 1.0}, {"MetricName": "m", **datum}],
        )
    assert real_time.list_metrics(Namespace=namespace)["Metrics"] == []


def alarm(name: str, namespace: str, **more: Any) -> dict[str, Any]:
    return {
        "AlarmName": name,
        "Namespace": namespace,
        "MetricName": "m",
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 10.0,
        "ComparisonOperator": "GreaterThanThreshold",
        **more,
    }


def test_an_alarm_follows_its_own_series_and_tells_its_topic(
    cloudwatch: Any, local_cloud: LocalCloud
) -> None:
    place: dict[str, Any] = {"endpoint_url": local_cloud.ministack_url, "region_name": "eu-west-1"}
    sns: Any = boto3.client("sns", **place)
    sqs: Any = boto3.client("sqs", **place)
    topic = sns.create_topic(Name=unique("alarms"))["TopicArn"]
    queue = sqs.create_queue(QueueName=unique("alarms"))["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn["QueueArn"])
    namespace, mine, other = unique("n"), unique("mine"), unique("other")
    for name, endpoint in ((mine, "a"), (other, "b")):
        cloudwatch.put_metric_alarm(
            **alarm(
                name,
                namespace,
                Dimensions=dimension(endpoint),
                AlarmActions=[topic],
                TreatMissingData="ignore",
            )
        )

    def states() -> dict[str, str]:
        found = cloudwatch.describe_alarms(AlarmNames=[mine, other])["MetricAlarms"]
        return {one["AlarmName"]: one["StateValue"] for one in found}

    assert states() == {mine: "INSUFFICIENT_DATA", other: "INSUFFICIENT_DATA"}
    put(cloudwatch, namespace, "m", 11.0, Dimensions=dimension("a"))
    put(cloudwatch, namespace, "m", 1.0, Dimensions=dimension("b"))
    wait_for(states, lambda found: found == {mine: "ALARM", other: "OK"})
    (received,) = wait_for(
        lambda: sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=2).get("Messages"), bool
    )
    told = json.loads(json.loads(received["Body"])["Message"])
    assert (told["AlarmName"], told["NewStateValue"]) == (mine, "ALARM")
    assert told["OldStateValue"] == "INSUFFICIENT_DATA"
    assert told["Trigger"]["Threshold"] == 10.0
    by_metric = cloudwatch.describe_alarms_for_metric(
        Namespace=namespace, MetricName="m", Dimensions=dimension("b")
    )["MetricAlarms"]
    assert [one["AlarmName"] for one in by_metric] == [other]
    cloudwatch.set_alarm_state(AlarmName=mine, StateValue="OK", StateReason="a test")
    cloudwatch.disable_alarm_actions(AlarmNames=[mine])
    (described,) = cloudwatch.describe_alarms(AlarmNames=[mine])["MetricAlarms"]
    assert (described["ActionsEnabled"], "Breach" in described) == (False, False)
    cloudwatch.delete_alarms(AlarmNames=[mine, other])
    assert states() == {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"DatapointsToAlarm": 2}, "at most EvaluationPeriods"),
        ({"TreatMissingData": "perhaps"}, "must be one of breaching"),
        ({"Period": 7}, "neither 1, 5, 10"),
        ({"Period": 10}, "a period of 10 seconds is not emulated"),
        ({"EvaluationPeriods": 2000, "DatapointsToAlarm": 1}, "more than a day"),
        ({"ExtendedStatistic": "p90"}, "Statistic or ExtendedStatistic"),
        ({"ComparisonOperator": "GreaterThanUpperThreshold"}, "not emulated"),
        ({"Metrics": [query("a", "N", "m")]}, "MetricName or Metrics"),
    ],
)
def test_an_alarm_that_could_not_be_evaluated_is_refused(
    cloudwatch: Any, change: dict[str, Any], why: str
) -> None:
    with pytest.raises(ClientError, match=why):
        cloudwatch.put_metric_alarm(**{**alarm("never", "N"), **change})
    assert cloudwatch.describe_alarms(AlarmNames=["never"])["MetricAlarms"] == []


def test_an_alarm_about_an_expression_needs_one_result(cloudwatch: Any) -> None:
    name, namespace = unique("math"), unique("n")
    settings = {
        "AlarmName": name,
        "EvaluationPeriods": 1,
        "Threshold": 0.5,
        "ComparisonOperator": "GreaterThanThreshold",
    }
    queries = [
        query("m1", namespace, "m1"),
        query("m2", namespace, "m2"),
        {"Id": "e", "Expression": "IF(m1 != 0, m2 / m1)"},
    ]
    with pytest.raises(ClientError, match="exactly one query must have ReturnData true; 3 have"):
        cloudwatch.put_metric_alarm(Metrics=queries, **settings)
    for one in queries[:2]:
        one["ReturnData"] = False
    cloudwatch.put_metric_alarm(Metrics=queries, **settings)

    def state() -> str:
        put(cloudwatch, namespace, "m1", 2.0)
        put(cloudwatch, namespace, "m2", 3.0)
        (found,) = cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]
        return str(found["StateValue"])

    wait_for(state, lambda found: found == "ALARM")


def test_what_is_not_emulated_says_so(cloudwatch: Any) -> None:
    with pytest.raises(ClientError, match="PutCompositeAlarm is not emulated by local_sagemaker"):
        cloudwatch.put_composite_alarm(AlarmName="c", AlarmRule="TRUE")
    with pytest.raises(ClientError) as error:
        cloudwatch.set_alarm_state(AlarmName="nowhere", StateValue="OK", StateReason="r")
    assert error.value.response["Error"]["Code"] == "ResourceNotFound"
