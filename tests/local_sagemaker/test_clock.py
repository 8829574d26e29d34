"""One clock: AWS's seconds pass as fast in limits, metrics and the bill, and moments stay the
machine's."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from local_sagemaker.account.billing import Bill
from local_sagemaker.clock import LAPSES, MACHINE, Clock
from tests.local_sagemaker.conftest import (
    Emulator,
    create_endpoint_config,
    create_model,
    create_training_job,
    ended_training_job,
    settled_endpoint,
    unique,
    wait_for,
)

LAPSE = 60
"""Of `hurried_emulator`."""
clocks = st.sampled_from(LAPSES).map(Clock)
moments = st.floats(0, 2e9)


@given(clocks, moments, st.floats(0, 1e6))
def test_so_many_of_awss_seconds_pass_within_their_length_on_the_machine(
    clock: Clock, moment: float, seconds: float
) -> None:
    later = moment + clock.machine_seconds(seconds)
    assert clock.since(moment, later) == pytest.approx(seconds, abs=1e-3)
    assert clock.aws_time(later) - clock.aws_time(moment) == pytest.approx(seconds, abs=1e-3)
    assert clock.moment(clock.aws_time(moment)) == pytest.approx(moment)


def test_moments_are_the_machines_and_ticks_are_awss() -> None:
    clock = Clock(LAPSE)
    moment, ticks = clock.now(), clock.ticks()
    assert abs(moment - time.time()) < 5
    time.sleep(0.05)
    assert clock.since(moment) >= 0.049 * LAPSE
    assert clock.ticks() - ticks >= 0.05 * LAPSE
    assert abs(MACHINE.now() - clock.now()) < 5


def test_a_wait_and_a_call_last_as_long_as_awss_seconds() -> None:
    async def wait() -> list[str]:
        called: list[str] = []
        Clock(LAPSE).call_later(3, called.append, "called")
        Clock(LAPSE).call_later(3600, called.append, "too early")
        begun = time.monotonic()
        await Clock(LAPSE).sleep(12)
        assert 0.2 <= time.monotonic() - begun < 10
        return called

    assert asyncio.run(wait()) == ["called"]


@pytest.mark.parametrize("lapse", [0, 61, -1])
def test_a_lapse_that_no_clock_can_have_is_refused(lapse: int) -> None:
    with pytest.raises(ValueError, match="it must be from 1 to 60"):
        Clock(lapse)


def test_one_lapse_moves_limits_latencies_metrics_and_the_bill_of_an_endpoint(
    hurried_emulator: Emulator,
) -> None:
    sagemaker, runtime, cloudwatch = (
        hurried_emulator.client(service)
        for service in ("sagemaker", "sagemaker-runtime", "cloudwatch")
    )
    name = unique("endpoint")
    config = create_endpoint_config(sagemaker, create_model(sagemaker))
    asked = time.monotonic()
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
    described = settled_endpoint(sagemaker, name)
    served = time.monotonic()
    assert abs(described["CreationTime"].timestamp() - time.time()) < 60, "a moment"

    def ask(words: str) -> Any:
        return runtime.invoke_endpoint(EndpointName=name, Body=words.encode())["Body"].read()

    def statistic(metric: str, which: str, namespace: str = "AWS/SageMaker") -> float:
        now = datetime.now(UTC)
        points = cloudwatch.get_metric_statistics(
            Namespace=namespace,
            MetricName=metric,
            Dimensions=[
                {"Name": "EndpointName", "Value": name},
                {"Name": "VariantName", "Value": "variant-1"},
            ],
            Statistics=[which],
            StartTime=now - timedelta(minutes=5),
            EndTime=now + timedelta(minutes=1),
            Period=1,  # of the machine, in which a minute of AWS's passes
        )["Datapoints"]
        return float(max((point[which] for point in points), default=0.0))

    assert json.loads(ask("spin 0.5"))["body"] == "spin 0.5"
    assert 0.5 * LAPSE <= statistic("ModelLatency", "Maximum") / 1e6 <= 61
    with pytest.raises(ClientError, match="timed out while waiting for a response"):
        ask("sleep 30")
    assert time.monotonic() - served < 20

    def busiest() -> float:
        return statistic("CPUUtilization", "Maximum", "/aws/sagemaker/Endpoints")

    # A share of the machine's own time; of AWS's it would be a sixtieth of it.
    assert wait_for(busiest, lambda share: share > 4) < 110 * (psutil.cpu_count() or 1)

    bill = Bill.model_validate(hurried_emulator.control("GET", "/_local/bill"))
    (line,) = [line for line in bill.resources if str(line.resource).endswith(name)]
    assert bill.time_lapse == LAPSE
    assert (served - asked) * 0.5 * LAPSE < line.instance_seconds
    assert line.instance_seconds < (time.monotonic() - asked) * LAPSE
    sagemaker.delete_endpoint(EndpointName=name)


def test_the_same_lapse_moves_a_jobs_runtime_and_its_times(
    hurried_emulator: Emulator, bucket: str
) -> None:
    sagemaker = hurried_emulator.client("sagemaker")
    done, stopped = (
        create_training_job(
            sagemaker,
            bucket,
            hyperparameters={"sleep": sleep},
            StoppingCondition={"MaxRuntimeInSeconds": seconds},
        )
        for sleep, seconds in ((0.5, 3600), (30, 60))
    )
    job = ended_training_job(sagemaker, done)
    assert job["TrainingJobStatus"] == "Completed"
    machine = (job["TrainingEndTime"] - job["TrainingStartTime"]).total_seconds()
    # A description's times are in whole milliseconds.
    assert job["TrainingTimeInSeconds"] == pytest.approx(machine * LAPSE, abs=1 + 0.01 * LAPSE)
    assert job["BillableTimeInSeconds"] == job["TrainingTimeInSeconds"] >= 0.5 * LAPSE
    job = ended_training_job(sagemaker, stopped)
    assert job["SecondaryStatus"] == "MaxRuntimeExceeded"
    assert job["TrainingTimeInSeconds"] >= 60
    machine = (job["TrainingEndTime"] - job["TrainingStartTime"]).total_seconds()
    assert machine < 20
