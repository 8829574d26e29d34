"""Served models on a real endpoint, asked about later data; and the comparison with their
challengers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from containers.forecast.consumption.synthetic import generate
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint
from tenantry.models.registry import FreshScore, ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys
from tenantry.onboarding.checks import CHECKS
from tenantry.onboarding.drift import check_drift, drift_of
from tenantry.onboarding.registration import register
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.shown.comparison import comparison
from tenantry.shown.report import AssetName
from tenantry.uploads import manifests
from tenantry.uploads.training_data import TrainingData, make_training_data
from tenantry.workloads.schema import Workload
from tests.conftest import TODAY, TRAINED_UNTIL, TrainedForecast
from tests.tenantry.onboarding.registration import NAME, route_to

Serving = tuple[Deployment, Workload, Endpoint]
LONDON = {"timezone": "Europe/London"}
PREPARED_AT = TODAY


@dataclass
class Told:
    """A report that records its entries."""

    checks: dict[ids.ModelId, tuple[bool, Mapping[str, Any]]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def materialized(
        self, asset: AssetName, tenant: ids.ModelId, metadata: Mapping[str, Any], data_version: str
    ) -> None:
        raise AssertionError("a check makes nothing")

    def checked(
        self,
        asset: AssetName,
        check: str,
        tenant: ids.ModelId,
        metadata: Mapping[str, Any],
        *,
        passed: bool,
    ) -> None:
        assert (asset, check) == ("endpoint_registration", "drift")
        self.checks[tenant] = (passed, metadata)

    def failed(self, asset: AssetName, tenant: ids.ModelId, reason: str) -> None:
        raise AssertionError("drift fails nothing")

    def flush(self) -> None:
        pass

    def info(self, message: str) -> None:
        self.words.append(message)


@pytest.fixture
def told_operators(serving: Serving) -> str:
    """The URL of a queue that receives operators' notices."""
    deployment, _, _ = serving
    url = deployment.sqs.create_queue(QueueName=f"operators-{uuid.uuid4().hex[:8]}")["QueueUrl"]
    arn = deployment.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])[
        "Attributes"
    ]["QueueArn"]
    deployment.sns.subscribe(TopicArn=deployment.operators_topic, Protocol="sqs", Endpoint=arn)
    return url


def served(
    serving: Serving, trained: TrainedForecast, made: datetime = TRAINED_UNTIL
) -> ModelVersion:
    """A tenant whose champion is this forecast, in service."""
    deployment, energy, endpoint = serving
    tenant, outcome = ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}"), trained.outcome
    version = ids.version_of(tenant, made)
    archive = s3_keys.checkpoint_archive(NAME, ids.pack_id("p-1"), tenant, version)
    objects.write_bytes(deployment.s3, deployment.data_bucket, archive, trained.archive)
    model = ModelVersion(
        tenant,
        NAME,
        version,
        "bridge",
        archive,
        len(trained.archive),
        outcome["archive"]["sha256"],
        ids.request_id(uuid.uuid4().hex),
        "job",
        metrics=outcome["metrics"],
        card=outcome["card"],
    )
    ModelRegistry(deployment).add(model)
    assert register(deployment, energy, model, route_to(endpoint.name, model)).crowned
    return model


def uploaded(
    serving: Serving,
    tenant: ids.ModelId,
    days: int,
    grown: float = 1.0,
    *,
    customer: int = 0,
    first: bool = False,
) -> tuple[Request, TrainingData]:
    """A newer prepared upload of a customer of ``trained_forecasts``, with this many more days, at
    another level."""
    deployment, energy, _ = serving
    frame = generate(
        customer + 1, TRAINED_UNTIL - timedelta(days=90), TRAINED_UNTIL + timedelta(days=days)
    )
    frame = frame[frame.customer_id == customer]
    frame.loc[frame.timestamp >= TRAINED_UNTIL, "consumption"] *= grown
    file = frame[["timestamp", "consumption"]].to_csv(index=False).encode()
    upload = ids.upload_id(uuid.uuid4().hex)
    manifest = manifests.put_upload(
        deployment, NAME, tenant, upload, {"consumption.csv": file}, LONDON
    )
    queue, request = RequestQueue(deployment), ids.request_id(uuid.uuid4().hex)
    queue.accept(NAME, tenant, request, manifest, "bridge", first=first, uploaded=PREPARED_AT)
    row = queue.get(NAME, tenant, request)
    assert row is not None
    data = make_training_data(deployment, energy, row)
    claimed = queue.move(row, "claimed", why="test")
    queue.move(
        claimed, "training", why="test", changes={"facts": {"training_data": data.to_json()}}
    )
    return row, data


def calls(deployment: Deployment) -> int:
    return sum(deployment.aws_calls.values())


def messages(deployment: Deployment, url: str) -> list[Mapping[str, Any]]:
    found = deployment.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(message["Body"]) for message in found]


def test_a_model_that_foretold_what_came_passes_and_others_warn_in_one_message(
    serving: Serving, trained_forecasts: list[TrainedForecast], told_operators: str
) -> None:
    deployment, energy, _ = serving
    models = [served(serving, trained_forecasts[number]) for number in range(3)]
    levels = (1.0, 2.0, 0.3)
    prepared = [
        uploaded(serving, model.tenant, 7, level, customer=number)
        for number, (model, level) in enumerate(zip(models, levels, strict=True))
    ]
    told = Told()
    check_drift(deployment, energy, prepared, told)

    assert told.words == []
    assert [told.checks[model.tenant][0] for model in models] == [True, False, False]
    passed, facts = told.checks[models[0].tenant]
    assert passed
    assert facts["version"] == models[0].version
    assert facts["promised_mase"] == models[0].metrics["mase"]
    assert 0 < facts["mase"] <= facts["promised_mase"] * (1 + facts["tolerance"])
    assert (facts["fresh_from"], facts["readings"]) == (
        f"{TRAINED_UNTIL:%Y-%m-%dT%H:%M:%SZ}",
        7 * 24,
    )
    assert facts["metrics"]["coverage80"]["promised"] == models[0].metrics["coverage80"]
    assert facts["plot"].startswith(b"\x89PNG")
    (said,) = messages(deployment, told_operators)
    assert said["Subject"] == "energy: 2 served models drifted"
    assert said["Message"].count(" at training\n") == 2
    assert models[0].tenant not in said["Message"]


def test_nothing_is_asked_where_there_is_nothing_to_tell(
    serving: Serving, trained_forecasts: list[TrainedForecast], told_operators: str
) -> None:
    deployment, energy, _ = serving
    told = Told()
    model = served(serving, trained_forecasts[0])
    without = energy.model_copy(update={"drift": None})
    newcomer = uploaded(serving, ids.tenant_id("newcomer"), 7, first=True)
    before = calls(deployment)
    check_drift(deployment, energy, [newcomer], told)
    check_drift(deployment, without, [newcomer], told)
    assert calls(deployment) == before, (
        "a tenant without a champion, or a workload without drift, costs no call"
    )

    no_model_after_all = (replace(newcomer[0], first=False), newcomer[1])
    one_day = uploaded(serving, model.tenant, 1)
    newest = served(serving, trained_forecasts[0], made=PREPARED_AT)
    same_upload = uploaded(serving, newest.tenant, 7)
    asked = deployment.aws_calls["sagemaker-runtime:InvokeEndpoint"]
    check_drift(deployment, energy, [no_model_after_all, one_day, same_upload], told)
    assert deployment.aws_calls["sagemaker-runtime:InvokeEndpoint"] == asked
    assert (told.checks, told.words, messages(deployment, told_operators)) == ({}, [], [])


def test_whatever_goes_wrong_is_said_and_stops_nothing(
    serving: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy, endpoint = serving
    registry = ModelRegistry(deployment)
    good = served(serving, trained_forecasts[0])
    prepared = {"good": uploaded(serving, good.tenant, 7)}
    for name in ("no card", "no archive", "no endpoint", "no data"):
        model = served(serving, trained_forecasts[0])
        row, data = uploaded(serving, model.tenant, 7)
        other = replace(
            model, version=ids.version_of(f"{model.tenant} {name}", TRAINED_UNTIL), card={}
        )
        if name == "no card":
            registry.add(other)
        elif name == "no archive":
            registry.add(replace(other, card=model.card))
        champion = registry.champion(model.tenant, NAME)
        if name in {"no card", "no archive"}:
            registry.crown(other, route_to(endpoint.name, other), champion)
        elif name == "no endpoint":
            registry.crown(model, route_to("tenantry-energy-gone", model), champion)
        else:
            data = replace(data, files=(ids.file_name("missing.csv"),))
        prepared[name] = (row, data)
    told = Told()
    check_drift(deployment, energy, list(prepared.values()), told)
    assert set(told.checks) == {good.tenant}
    words = {
        name: [w for w in told.words if w.startswith(f"{row.tenant}: ")]
        for name, (row, _) in prepared.items()
    }
    assert words.pop("good") == []
    for name, said in words.items():
        assert len(said) == 1, name
        assert "its drift could not be told" in said[0]
    assert "KeyError" in words["no card"][0]
    assert "InvocationRefusedError" in words["no archive"][0]
    assert "EndpointUnavailableError" in words["no endpoint"][0]
    assert "ObjectMissingError" in words["no data"][0]

    assert energy.drift is not None
    lost = energy.drift.model_copy(update={"module": "containers.no.such"})
    nobody = energy.model_copy(update={"drift": lost})
    check_drift(deployment, nobody, [prepared["good"]], told)
    assert "ModuleNotFoundError" in told.words[-1]


def test_training_does_not_wait_for_it_for_ever(
    serving: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy, _ = serving
    prepared = [
        uploaded(serving, served(serving, trained_forecasts[0]).tenant, 7) for _ in range(2)
    ]
    told = Told()
    check_drift(deployment, energy, prepared, told, max_seconds=0.0)
    assert told.checks == {}
    assert told.words == ["drift: 2 of 2 tenants were not looked at within 0 s"]


def test_a_person_may_ask_for_one_tenant(
    serving: Serving, trained_forecasts: list[TrainedForecast]
) -> None:
    deployment, energy, _ = serving
    assert drift_of(deployment, energy, ids.tenant_id("nobody")).facts == {
        "reason": "no upload of it was prepared yet"
    }
    model = served(serving, trained_forecasts[0])
    uploaded(serving, model.tenant, 7, grown=2.0)
    found = drift_of(deployment, energy, model.tenant)
    assert not found.passed
    assert found.facts["version"] == model.version
    newest = served(serving, trained_forecasts[0], made=PREPARED_AT)
    uploaded(serving, newest.tenant, 7)
    assert drift_of(deployment, energy, newest.tenant).facts == {
        "reason": "nothing tells of days after its champion was made"
    }
    (check,) = [check for check in CHECKS if check.name == "drift"]
    assert check.concerns(energy)
    assert not check.concerns(energy.model_copy(update={"drift": None}))


@pytest.mark.parametrize(
    ("same_data", "crowned", "said"),
    [
        (
            True,
            True,
            "share_of_baseline is 1.000, the champion's 1.100 on the same data (lower is better)",
        ),
        (False, False, "its share_of_baseline is 1.000, the champion's 0.700 (lower is better)"),
    ],
    ids=["known on its data", "known on other data"],
)
def test_a_challenger_is_compared_with_what_the_champion_was_worth_on_the_same_data(
    serving: Serving,
    trained_forecasts: list[TrainedForecast],
    same_data: bool,
    crowned: bool,
    said: str,
) -> None:
    deployment, energy, endpoint = serving
    registry = ModelRegistry(deployment)
    trained = trained_forecasts[0]
    promised = replace(
        trained, outcome={**trained.outcome, "metrics": {"mase": 0.7, "baseline_mase": 1.0}}
    )
    champion = served(serving, promised)
    version = ids.version_of("challenger", PREPARED_AT)
    data = version if same_data else ids.version_of("another", PREPARED_AT - timedelta(days=9))
    registry.note_fresh_score(champion, FreshScore(data, {"mase": 2.2, "baseline_mase": 2.0}))
    challenger = replace(
        champion, version=version, metrics={"mase": 1.5, "baseline_mase": 1.5}, made=PREPARED_AT
    )
    registry.add(challenger)

    done = register(deployment, energy, challenger, route_to(endpoint.name, challenger))
    assert done.crowned == crowned
    assert done.decision.endswith(said)
    assert done.champion_skill == (1.1 if same_data else 0.7)
    assert done.reigning is not None
    table = comparison(energy, challenger, done.reigning).splitlines()
    if same_data:
        assert table[0] == (
            f"| lower is better | challenger {version} | champion {champion.version} on the same "
            f"data | champion at its training |"
        )
        assert table[2] == "| **share_of_baseline** | 1 | 1.1 | 0.7 |"
    else:
        assert (
            table[0] == f"| lower is better | challenger {version} | champion {champion.version} |"
        )
        assert table[2] == "| **share_of_baseline** | 1 | 0.7 |"
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
