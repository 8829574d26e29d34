"""Cached answers: they answer only the same question to the same champion, and every request is
counted."""

from __future__ import annotations

import io
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from PIL import Image

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint
from tenantry.hosting.invocation import Answer, InvocationRefusedError
from tenantry.names import ids
from tenantry.onboarding.registration import register, roll_back
from tenantry.serving.client import TenantClient
from tenantry.serving.metrics import InferenceMetrics
from tenantry.serving.moments import at_its_moment
from tenantry.serving.result_cache import Question, ResultCache, question_of
from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Cache
from tests.conftest import TRAINED_UNTIL, TrainedForecast
from tests.tenantry.onboarding.registration import route_to, trained_version
from tests.tenantry.serving.inference_counts import counted

Serving = tuple[Deployment, Workload, Endpoint]
START = f"{TRAINED_UNTIL:%Y-%m-%dT%H:%M:%SZ}"  # in the form of a resolved start
WEEK = {"period": 7, "start": START}


@pytest.fixture
def energy(serving: Serving) -> Workload:
    return with_cache(serving[1], enabled=True)


def with_cache(workload: Workload, **settings: Any) -> Workload:
    return workload.model_copy(
        update={"serving": workload.serving.model_copy(update={"cache": Cache(**settings)})}
    )


def crowned(
    serving: Serving, made: TrainedForecast, tenant: ids.TenantId | None = None, number: int = 1
) -> ids.TenantId:
    """A tenant whose champion is this forecast."""
    deployment, workload, endpoint = serving
    name = tenant or ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")
    version = trained_version(
        deployment, name, number, made.archive, made.outcome["metrics"], card=made.outcome["card"]
    )
    assert register(deployment, workload, version, route_to(endpoint.name, version)).crowned
    return name


@pytest.fixture
def tenant(serving: Serving, trained_forecasts: list[TrainedForecast]) -> ids.TenantId:
    return crowned(serving, trained_forecasts[0])


def invocations(serving: Serving) -> int:
    """The number of requests from this process to an endpoint."""
    return serving[0].aws_calls["sagemaker-runtime:InvokeEndpoint"]


def entries(deployment: Deployment, tenant: ids.TenantId) -> list[str]:
    listed = deployment.s3.list_objects_v2(
        Bucket=deployment.data_bucket, Prefix=f"cache/{tenant}/energy/"
    )
    return [entry["Key"] for entry in listed.get("Contents", [])]


def predict(
    serving: Serving, energy: Workload, tenant: ids.TenantId, request: dict[str, Any]
) -> dict[str, Any]:
    with TenantClient(serving[0], energy, tenant) as client:
        return client.predict(request)


def test_the_same_question_is_answered_without_the_endpoint(
    serving: Serving, energy: Workload, tenant: ids.TenantId
) -> None:
    before = invocations(serving)
    first = predict(serving, energy, tenant, {"period": 7, "start": START, "quantiles": [0.1, 0.9]})
    assert invocations(serving) == before + 1
    again = predict(serving, energy, tenant, {"quantiles": [0.1, 0.9], "start": START, "period": 7})
    assert again == first
    assert invocations(serving) == before + 1
    assert predict(serving, energy, tenant, {"period": 1, "start": START}) != first
    assert invocations(serving) == before + 2
    deployment = serving[0]
    listed = deployment.s3.list_objects_v2(
        Bucket=deployment.data_bucket, Prefix=f"archive/{tenant}/energy/"
    )
    records = [
        json.loads(objects.read_bytes(deployment.s3, deployment.data_bucket, entry["Key"], 1 << 20))
        for entry in listed["Contents"]
    ]
    given_again = [record for record in records if record["cached"]]
    assert len(records) == 3
    assert ["response" in record for record in given_again] == [False]
    (computed,) = [
        r for r in records if not r["cached"] and r["question"] == given_again[0]["question"]
    ]
    assert computed["response"] == first


def test_two_tenants_with_the_same_request_get_their_own_answers(
    serving: Serving,
    energy: Workload,
    tenant: ids.TenantId,
    trained_forecasts: list[TrainedForecast],
) -> None:
    other = crowned(serving, trained_forecasts[1])
    first = {name: predict(serving, energy, name, WEEK) for name in (tenant, other)}
    before = invocations(serving)
    assert {name: predict(serving, energy, name, WEEK) for name in (other, tenant)} == first
    assert first[tenant]["mean"] != first[other]["mean"]
    assert invocations(serving) == before


def test_a_new_champion_is_asked_and_a_rollback_finds_what_the_old_one_said(
    serving: Serving,
    energy: Workload,
    tenant: ids.TenantId,
    trained_forecasts: list[TrainedForecast],
) -> None:
    old = predict(serving, energy, tenant, WEEK)
    newer = replace(trained_forecasts[1], outcome=trained_forecasts[0].outcome)
    crowned(serving, newer, tenant, number=2)
    new = predict(serving, energy, tenant, WEEK)
    assert new["mean"] != old["mean"]
    roll_back(serving[0], energy, tenant)
    before = invocations(serving)
    assert predict(serving, energy, tenant, WEEK) == old
    assert invocations(serving) == before


@pytest.mark.parametrize(
    ("damage", "metadata"),
    [
        (b"", {}),
        (b'{"mean": [0]}', {}),
        (None, {"tenant": "someone-else"}),
        (None, {"version": "v9"}),
        (None, {"question": "0" * 32}),
        (None, {"until": "tomorrow"}),
        (None, {"until": "2999-01-01T00:00:00"}),
        (None, {"format": "2"}),
        (b" " * (1024 * 1024 + 1), {}),
    ],
    ids=[
        "empty",
        "other content",
        "other tenant",
        "other version",
        "other question",
        "no date",
        "no time zone",
        "other format",
        "too large",
    ],
)
def test_an_entry_that_is_not_what_it_should_be_is_none(
    serving: Serving,
    energy: Workload,
    tenant: ids.TenantId,
    damage: bytes | None,
    metadata: dict[str, str],
) -> None:
    deployment = serving[0]
    first = predict(serving, energy, tenant, WEEK)
    (key,) = entries(deployment, tenant)
    entry = objects.read_object(deployment.s3, deployment.data_bucket, key, 1 << 20)
    content = entry.content if damage is None else damage
    objects.write_bytes(
        deployment.s3,
        deployment.data_bucket,
        key,
        content,
        entry.content_type,
        {**entry.metadata, **metadata},
    )
    before = invocations(serving)
    assert predict(serving, energy, tenant, WEEK) == first
    assert invocations(serving) == before + 1
    assert predict(serving, energy, tenant, WEEK) == first  # the damaged entry was replaced
    assert invocations(serving) == before + 1


def test_an_entry_of_another_tenant_moved_under_the_key_is_none(
    serving: Serving,
    energy: Workload,
    tenant: ids.TenantId,
    trained_forecasts: list[TrainedForecast],
) -> None:
    deployment, other = serving[0], crowned(serving, trained_forecasts[1])
    mine, theirs = predict(serving, energy, tenant, WEEK), predict(serving, energy, other, WEEK)
    (own_key,), (other_key,) = entries(deployment, tenant), entries(deployment, other)
    objects.copy(deployment.s3, deployment.data_bucket, other_key, own_key)
    assert predict(serving, energy, tenant, WEEK) == mine != theirs


def test_an_answer_is_given_until_its_day_and_no_longer(
    serving: Serving, energy: Workload, tenant: ids.TenantId
) -> None:
    deployment = serving[0]
    with TenantClient(deployment, energy, tenant) as client:
        question = question_of(energy, client.champion(), WEEK, "application/json")
    cache, at = ResultCache(deployment, energy), datetime(2026, 1, 1, tzinfo=UTC)
    answer = Answer(b"{}", "application/json")
    assert cache.find(question, at) is None
    assert cache.keep(question, answer, at)
    assert cache.find(question, at + timedelta(days=6, hours=23)) == answer
    assert cache.find(question, at + timedelta(days=7, seconds=1)) is None
    before = invocations(serving)
    assert predict(serving, energy, tenant, WEEK) != {}
    assert invocations(serving) == before + 1


@pytest.mark.parametrize(
    "settings",
    [
        {"enabled": False},
        {"enabled": True, "repeatable_with": ("seed",)},
        {"enabled": True, "max_kilobytes": 1},
    ],
    ids=["off", "not repeatable", "too large"],
)
def test_what_may_not_be_kept_is_asked_again(
    serving: Serving, tenant: ids.TenantId, settings: dict[str, Any]
) -> None:
    energy = with_cache(serving[1], **settings)
    before = invocations(serving)
    assert predict(serving, energy, tenant, WEEK) == predict(serving, energy, tenant, WEEK)
    assert invocations(serving) == before + 2
    assert not entries(serving[0], tenant)


def test_what_is_asked_about_now_is_another_question_in_an_hour(
    serving: Serving, energy: Workload, tenant: ids.TenantId
) -> None:
    """Yesterday's cached answer to "the next week" would start in the past."""
    with TenantClient(serving[0], energy, tenant) as client:
        champion = client.champion()

    def asked(request: dict[str, Any], at: datetime) -> Question:
        return question_of(
            energy, champion, at_its_moment(energy, champion.card, request, at), "application/json"
        )

    at = TRAINED_UNTIL + timedelta(minutes=10)
    week = {"period": 7}
    assert asked(week, at).repeatable
    assert asked(week, at) == asked(week, at + timedelta(minutes=40))
    assert asked(week, at).id != asked(week, at + timedelta(hours=1)).id
    assert asked(week, at) == asked(
        {"period": 7, "start": (TRAINED_UNTIL + timedelta(hours=1)).isoformat()}, at
    )
    assert asked(WEEK, at) == asked(WEEK, at + timedelta(days=1))
    # For a champion without a known card, the container chooses the moment, so that nothing is
    # cached.
    unknown = replace(champion, card={})
    assert not question_of(
        energy, unknown, at_its_moment(energy, {}, week, at), "application/json"
    ).repeatable


def test_a_request_that_names_no_moment_is_refused(
    serving: Serving, energy: Workload, tenant: ids.TenantId
) -> None:
    with (
        TenantClient(serving[0], energy, tenant) as client,
        pytest.raises(InvocationRefusedError, match="start must be"),
    ):
        client.predict({"period": 7, "start": "tomorrow"})


def test_another_container_or_another_type_makes_another_question(
    serving: Serving, energy: Workload, tenant: ids.TenantId
) -> None:
    with TenantClient(serving[0], energy, tenant) as client:
        champion = client.champion()
    asked = question_of(energy, champion, WEEK, "application/json")
    assert question_of(energy, champion, dict(WEEK), "application/json") == asked
    assert question_of(energy, champion, WEEK, "image/png").id != asked.id
    newer = energy.model_copy(update={"image_tag": "9.9.9"})
    assert question_of(newer, champion, WEEK, "application/json").id != asked.id
    unrepeatable = with_cache(energy, enabled=False)
    once, twice = (
        question_of(unrepeatable, champion, WEEK, "application/json").id for _ in range(2)
    )
    assert once != twice


@pytest.mark.parametrize(
    "request_",
    [{"period": float("nan")}, {"period": object()}, {"period": {1, 2}}],
    ids=["not a number", "an object", "a set"],
)
def test_a_request_that_is_no_json_is_refused_before_anything_is_asked(
    serving: Serving, energy: Workload, tenant: ids.TenantId, request_: dict[str, Any]
) -> None:
    before = invocations(serving)
    with (
        TenantClient(serving[0], energy, tenant) as client,
        pytest.raises(InvocationRefusedError, match="no JSON document"),
    ):
        client.predict(request_)
    assert invocations(serving) == before


def test_bytes_are_kept_with_their_type(
    serving: Serving, energy: Workload, tenant: ids.TenantId
) -> None:
    deployment = serving[0]
    with TenantClient(deployment, energy, tenant) as client:
        question = question_of(energy, client.champion(), WEEK, "image/png")
        sink = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(sink, format="png")
        picture = Answer(sink.getvalue(), "image/png")
        assert ResultCache(deployment, energy).keep(question, picture)
        before = invocations(serving)
        assert client.predict_bytes(WEEK, "image/png") == picture
        assert invocations(serving) == before
        asked = question_of(
            energy, client.champion(), {"period": 3, "start": START}, "application/json"
        )
        assert not ResultCache(deployment, energy).keep(asked, picture), (
            "it is not what was asked for"
        )


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b'{"mean": [1.0, 2.', "application/json"),
        (b'{"error": {"message": "out of memory"}}', "application/json"),
        (b"<html>502 Bad Gateway</html>", "text/html"),
        (b"<html>502 Bad Gateway</html>", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"\x89PNG\r\n\x1a\n cut off", "image/png"),
        (b"<html></html>", "image/png"),
        (b"", "image/png"),
    ],
    ids=[
        "empty",
        "cut off",
        "an error",
        "a page",
        "a page called JSON",
        "too deep",
        "half a picture",
        "a page called a picture",
        "an empty picture",
    ],
)
def test_what_is_no_whole_answer_is_not_kept_and_not_given(
    serving: Serving, energy: Workload, tenant: ids.TenantId, content: bytes, kind: str
) -> None:
    deployment, accept = serving[0], "image/png" if kind == "image/png" else "application/json"
    cache = ResultCache(deployment, energy)
    with TenantClient(deployment, energy, tenant) as client:
        question = question_of(energy, client.champion(), {"period": 5, "start": START}, accept)
    assert not cache.keep(question, Answer(content, kind))
    assert entries(deployment, tenant) == []
    # An earlier release would have stored the answer this way.
    whole = Answer(b'{"mean": [1.0]}', "application/json")
    asked = replace(question, accept="application/json")
    assert cache.keep(asked, whole)
    (key,) = entries(deployment, tenant)
    label = objects.read_object(deployment.s3, deployment.data_bucket, key, 1 << 20).metadata
    label = {**label, "sha256": objects.sha256(content)}
    objects.write_bytes(deployment.s3, deployment.data_bucket, key, content, kind, label)
    assert cache.find(question) is None


def test_many_who_ask_the_same_at_once_all_get_the_one_answer(
    serving: Serving, energy: Workload, tenant: ids.TenantId
) -> None:
    with TenantClient(serving[0], energy, tenant) as client, ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: json.dumps(client.predict({"period": 2, "start": START})), range(24))
        )
    assert len(set(answers)) == 1
    assert len(entries(serving[0], tenant)) == 1


def test_a_cache_that_cannot_be_reached_costs_no_prediction(
    serving: Serving, energy: Workload, tenant: ids.TenantId, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = replace(serving[0], data_bucket="no-such-bucket")
    with TenantClient(deployment, energy, tenant) as client:
        assert client.predict(WEEK)["mean"]
    assert "could not be archived, or its answer kept" in caplog.text


# ---- counts --------------------------------------------------------------------------------------


def test_hits_and_misses_are_counted_and_add_up_to_the_requests(
    serving: Serving, energy: Workload, tenant: ids.TenantId
) -> None:
    deployment = serving[0]
    before = counted(deployment, "energy")
    with InferenceMetrics(deployment) as metrics:
        for days in (1, 1, 2, 1, 2):
            with TenantClient(deployment, energy, tenant, metrics) as client:
                client.predict({"period": days, "start": START})
        with (
            TenantClient(deployment, energy, tenant, metrics) as client,
            pytest.raises(InvocationRefusedError),
        ):
            client.predict({"period": 0, "start": START})
        with TenantClient(deployment, with_cache(energy), tenant, metrics) as client:
            client.predict({"period": 1, "start": START})
    after = counted(deployment, "energy")
    grown = {
        name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in after
    }
    assert grown == {
        "NumberOfInferenceRequests": (7, 7),
        "CacheHits": (3, 3),
        "CacheMisses": (4, 4),
    }


def test_counts_that_cannot_be_sent_wait_for_the_next_time(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    deployment = serving[0]
    workload, metrics = ids.workload_name("nowhere"), InferenceMetrics(deployment)

    def cut(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="https://monitoring.example")

    deployment.cloudwatch.meta.events.register("before-call.cloudwatch.PutMetricData", cut)
    metrics.count(workload, hit=True)
    metrics.flush()
    deployment.cloudwatch.meta.events.unregister("before-call.cloudwatch.PutMetricData", cut)
    assert "could not be sent" in caplog.text
    assert counted(deployment, "nowhere")["CacheHits"] == (0, 0)
    metrics.count(workload, hit=False)
    metrics.close()
    assert counted(deployment, "nowhere") == {
        "NumberOfInferenceRequests": (2, 2),
        "CacheHits": (1, 1),
        "CacheMisses": (1, 1),
    }


def test_counts_go_out_by_themselves(serving: Serving) -> None:
    deployment = serving[0]
    metrics = InferenceMetrics(deployment, seconds=0.01)
    metrics.count(ids.workload_name("alone"), hit=False)
    timer = metrics._timer
    assert timer is not None
    timer.join(20)
    assert counted(deployment, "alone")["CacheMisses"] == (1, 1)
    metrics.close()
