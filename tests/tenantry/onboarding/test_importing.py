"""Models that were trained elsewhere: from the client to champion, and each unusable archive to a
refusal that leaves the champion alone."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.hosting.endpoints import Endpoint
from tenantry.models.registry import Champion, ModelRegistry, ModelVersion
from tenantry.names import ids, s3_keys
from tenantry.onboarding.member import owed_members
from tenantry.onboarding.onboarding import Onboarding
from tenantry.onboarding.pack import PackAtWork
from tenantry.onboarding.registration import register, roll_back
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.serving.client import ArchiveDigestError, TenantClient
from tenantry.shown.report import ONBOARDING
from tenantry.training.packed_job import FinishedJob
from tenantry.uploads.intake import drain_queue
from tenantry.workloads.schema import Workload, read_workloads
from tests.conftest import TrainedForecast
from tests.containers.runtime.tar_bombs import HEADER_BOMBS
from tests.tenantry.command_line.conftest import caller
from tests.tenantry.onboarding.registration import NAME, route_to, trained_version
from tests.tenantry.onboarding.test_onboarding import Heard

Serving = tuple[Deployment, Workload, Endpoint]
GOOD = {"mase": 0.8, "baseline_mase": 1.0}


@pytest.fixture
def tenant() -> ids.TenantId:
    return ids.tenant_id(f"t-{uuid.uuid4().hex[:8]}")


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {name: tar.extractfile(name) for name in tar.getnames()}
        return {name: file.read() for name, file in found.items() if file is not None}


def packed(contents: Mapping[str, bytes], *more: tarfile.TarInfo) -> bytes:
    """A gzipped tar as another program writes it, with further members without content."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member)
    return sink.getvalue()


def strangers(made: TrainedForecast, **card: Any) -> dict[str, bytes]:
    """The members of an archive as made elsewhere: a forecast, and a card with little else than
    its metrics."""
    told = {"format": 1, "family": "forecast", "metrics": GOOD, "maker": "a notebook", **card}
    return {
        "./model.json": members(made.archive)["model.json"],
        "./card.json": json.dumps(told).encode(),
    }


def no_job(*_: Any) -> FinishedJob:
    raise AssertionError("a model that was trained elsewhere was given to a training job")


def onboarded(deployment: Deployment, energy: Workload, *tenants: ids.TenantId) -> Heard:
    """Take in what was uploaded, and take the tenants' requests through a pack."""
    queue, heard, pack = RequestQueue(deployment), Heard(), ids.pack_id(f"p-{uuid.uuid4().hex[:8]}")
    drain_queue(deployment, read_workloads(), lambda *_: None, max_seconds=20)
    due = [row for row in queue.due(NAME) if row.tenant in tenants]
    queue.claim(due, pack)
    at_work = PackAtWork(deployment, energy, pack, "bridge", heard, frozenset(ONBOARDING))
    members = owed_members(queue.get_many([row.key for row in due], NAME), pack)
    Onboarding(at_work, no_job, no_job).run(members)
    return heard


def notices(deployment: Deployment, *tenants: ids.TenantId) -> list[tuple[str, str | None]]:
    """The kinds and codes of the notices to tenants' owners."""
    found = []
    while messages := deployment.sqs.receive_message(
        QueueUrl=deployment.notices_queue_url, MaxNumberOfMessages=10, VisibilityTimeout=60
    ).get("Messages"):
        bodies = [json.loads(message["Body"]) for message in messages]
        found += [(body["kind"], body["code"]) for body in bodies if body["tenant"] in tenants]
    return found


def champion_of(deployment: Deployment, tenant: ids.TenantId) -> Champion:
    champion = ModelRegistry(deployment).champion(tenant, NAME)
    assert champion is not None
    return champion


def rows_of(deployment: Deployment, tenant: ids.TenantId) -> list[Request]:
    return RequestQueue(deployment).of_tenant(NAME, tenant)


@pytest.fixture
def served(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> ModelVersion:
    """A version of the tenant's that serves it."""
    deployment, energy, endpoint = serving
    model = trained_version(deployment, tenant, 1, trained_forecasts[1].archive, GOOD)
    assert register(deployment, energy, model, route_to(endpoint.name, model)).crowned
    return model


def test_a_model_made_elsewhere_becomes_champion_without_a_job_and_can_be_rolled_back_from(
    serving: Serving,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
    served: ModelVersion,
) -> None:
    deployment, energy, _ = serving
    archive = packed(strangers(trained_forecasts[0]))
    with TenantClient(deployment, energy, tenant) as client:
        client.import_model(archive, sha256=objects.sha256(archive).upper())
        heard = onboarded(deployment, energy, tenant)
        (row,) = client.requests()
        answer = client.predict({"period": 1, "start": "data_end"})
        client.import_model(archive)  # the same again, under another upload's id
        again = onboarded(deployment, energy, tenant)
        assert client.requests() == [replace(row, uploaded=client.requests()[0].uploaded)]

    assert (row.status, row.purpose) == ("registered", "import")
    assert [change["status"] for change in row.history] == [
        "pending",
        "claimed",
        "trained",
        "registered",
    ]
    champion = champion_of(deployment, tenant)
    assert (champion.version, champion.previous) == (row.version, served.version)
    assert answer["version"] == row.version
    assert notices(deployment, tenant) == [("model_ready", None)]
    assert (heard.reasons, again.made) == ([], [])
    artifact, registration = heard.made
    assert artifact["card"]["imported"] == {"sha256": objects.sha256(archive)}
    assert "maker" not in artifact["card"]
    assert registration["decision"].startswith(f"not worse than {served.version}")
    kept = objects.read_bytes(
        deployment.s3,
        deployment.data_bucket,
        s3_keys.artifact(NAME, tenant, champion.version),
        1 << 20,
    )
    card = json.loads(members(kept)["card.json"])
    assert (card["tenant"], card["workload"], card["version"]) == (tenant, NAME, row.version)
    assert artifact["version"] == row.version

    assert roll_back(deployment, energy, tenant).version == served.version


class Runs:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit",)


def unusable(made: TrainedForecast) -> dict[str, tuple[bytes, str]]:
    """Archives that are refused, each with the code of its refusal."""
    good = strangers(made)
    link, device, outside = (tarfile.TarInfo(name) for name in ("model.json", "model.json", "/x"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device.type = tarfile.CHRTYPE
    model = json.loads(good["./model.json"])
    crossed = {**model, "first": {**model["first"], "mean": [-1.0] * 168}}
    card_only = {"./card.json": good["./card.json"]}
    return {
        "no archive": (b"a model", "archive_unusable"),
        "torn": (packed(good)[:-40], "archive_unusable"),
        "a path outside": (packed({**good, "../../model.json": b"{}"}), "archive_unusable"),
        "an absolute path": (packed(good, outside), "archive_unusable"),
        "a link": (packed(card_only, link), "archive_unusable"),
        "a device": (packed(card_only, device), "archive_unusable"),
        "a bomb": (packed({**good, "zeros": bytes(64 << 20)}), "archive_unusable"),
        **{
            f"headers: {name}": (gzip.compress(content), "archive_unusable")
            for name, content in list(HEADER_BOMBS.items())[:2]
        },
        "a pickle": (packed({**good, "model.pkl": pickle.dumps(Runs())}), "archive_member_unknown"),
        "no model": (packed(card_only), "archive_member_missing"),
        "a model of another form": (
            packed({**good, "./model.json": json.dumps(crossed).encode()}),
            "model_unreadable",
        ),
        "a model that is no JSON": (
            packed({**good, "./model.json": pickle.dumps(Runs())}),
            "model_unreadable",
        ),
        "no card": (packed({"model.json": good["./model.json"]}), "archive_member_missing"),
        "a card that is no JSON": (packed({**good, "./card.json": b"{"}), "card_malformed"),
        "a card of a later format": (packed(strangers(made, format=2)), "card_malformed"),
        "metrics that are no numbers": (
            packed(strangers(made, metrics={**GOOD, "mase": "0.1"})),
            "card_malformed",
        ),
        "an error below zero": (
            packed(strangers(made, metrics={**GOOD, "mase": -1})),
            "model_unreadable",
        ),
        "another family": (packed(strangers(made, family="diffusion")), "model_of_other_family"),
        "another workload": (
            packed(strangers(made, workload="portraits")),
            "model_of_other_workload",
        ),
        "another tenant": (made.archive, "model_of_other_tenant"),
        "no baseline": (packed(strangers(made, metrics={"mase": 0.1})), "metrics_missing"),
        "no metrics": (packed(strangers(made, metrics={})), "metrics_missing"),
    }


def test_an_unusable_archive_is_refused_with_a_reason_and_costs_neither_champion_nor_neighbour(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, endpoint = serving
    cases = unusable(trained_forecasts[0])
    expected, before = dict[ids.TenantId, str](), dict[ids.TenantId, Champion]()
    for number, (archive, code) in enumerate(cases.values()):
        who = ids.tenant_id(f"{tenant}-{number}")
        model = trained_version(deployment, who, 1, trained_forecasts[1].archive, GOOD)
        register(deployment, energy, model, route_to(endpoint.name, model))
        expected[who], before[who] = code, champion_of(deployment, who)
        TenantClient(deployment, energy, who).import_model(archive)
    TenantClient(deployment, energy, tenant).import_model(packed(strangers(trained_forecasts[0])))

    heard = onboarded(deployment, energy, tenant, *expected)

    found = {who: rows_of(deployment, who)[-1] for who in expected}
    named = dict(zip(expected, cases, strict=True))
    assert {named[who]: row.reason_code for who, row in found.items()} == {
        named[who]: code for who, code in expected.items()
    }
    assert {row.status for row in found.values()} == {"refused"}
    assert all(str(row.reason).endswith(".") for row in found.values())
    assert not any("notebook" in reason for reason in heard.reasons)
    assert {who: champion_of(deployment, who) for who in expected} == before
    told = notices(deployment, *expected)
    assert sorted(told, key=str) == sorted(
        (("upload_refused", code) for code in expected.values()), key=str
    )
    assert champion_of(deployment, tenant).version == rows_of(deployment, tenant)[0].version


def test_a_model_made_elsewhere_that_is_worse_is_kept_and_does_not_serve(
    serving: Serving,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
    served: ModelVersion,
) -> None:
    deployment, energy, _ = serving
    worse = packed(strangers(trained_forecasts[0], metrics={"mase": 0.95, "baseline_mase": 1.0}))
    TenantClient(deployment, energy, tenant).import_model(worse)
    onboarded(deployment, energy, tenant)
    (row,) = rows_of(deployment, tenant)
    assert row.status == "registered"
    assert champion_of(deployment, tenant).version == served.version
    assert [one.status for one in ModelRegistry(deployment).versions(tenant, NAME)] == [
        "champion",
        "rejected",
    ]
    assert notices(deployment, tenant) == [("model_kept", None)]


def test_another_digest_than_the_callers_is_refused_here_and_another_than_the_manifests_there(
    serving: Serving, trained_forecasts: list[TrainedForecast], tenant: ids.TenantId
) -> None:
    deployment, energy, _ = serving
    archive = packed(strangers(trained_forecasts[0]))
    client = TenantClient(deployment, energy, tenant)
    with pytest.raises(ArchiveDigestError, match=objects.sha256(archive)):
        client.import_model(archive, sha256="0" * 64)
    upload = client.import_model(archive)
    key = s3_keys.upload_file(NAME, tenant, upload, ids.file_name("model.tar.gz"))
    swapped = bytes([*archive[:-1], archive[-1] ^ 1])
    objects.write_bytes(deployment.s3, deployment.uploads_bucket, key, swapped)
    onboarded(deployment, energy, tenant)
    (row,) = rows_of(deployment, tenant)
    assert (row.status, row.reason_code) == ("refused", "file_digest_differs")
    assert ModelRegistry(deployment).versions(tenant, NAME) == []


def test_a_run_that_died_after_any_step_is_taken_up_again_and_makes_one_version(
    serving: Serving,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployment, energy, _ = serving
    client = TenantClient(deployment, energy, tenant)
    client.import_model(packed(strangers(trained_forecasts[0])))
    queue, pack = RequestQueue(deployment), ids.pack_id(f"p-{uuid.uuid4().hex[:8]}")
    drain_queue(deployment, read_workloads(), lambda *_: None, max_seconds=20)
    (row,) = client.requests()
    queue.claim([row], pack)

    def run() -> Heard:
        heard = Heard()
        at_work = PackAtWork(deployment, energy, pack, "bridge", heard, frozenset(ONBOARDING))
        Onboarding(at_work, no_job, no_job).run(owed_members(client.requests(), pack))
        return heard

    class Died(BaseException):
        """The process is gone."""

    def die(*_: Any, **__: Any) -> None:
        raise Died

    for module, name, status in (
        ("tenantry.models.registry.ModelRegistry", "add", "claimed"),
        ("tenantry.onboarding.pack.PackAtWork", "move", "claimed"),
        ("tenantry.onboarding.importing", "report_imported", "trained"),
        ("tenantry.onboarding.registering", "register", "trained"),
    ):
        with monkeypatch.context() as dying:
            dying.setattr(f"{module}.{name}", die)
            with pytest.raises(Died):
                run()
        assert client.requests()[0].status == status, name
    heard = run()

    assert client.requests()[0].status == "registered"
    (version,) = ModelRegistry(deployment).versions(tenant, NAME)
    assert champion_of(deployment, tenant).version == version.version
    assert [made["version"] for made in heard.made] == [version.version] * 2
    assert heard.made[0]["trained"].startswith("elsewhere")


@pytest.mark.parametrize("card", [{}, {"family": "diffusion"}], ids=["usable", "unusable"])
def test_the_command_follows_an_import_to_its_end(
    serving: Serving,
    trained_forecasts: list[TrainedForecast],
    tenant: ids.TenantId,
    tmp_path: Path,
    card: dict[str, str],
) -> None:
    deployment, energy, _ = serving
    file = tmp_path / "model.tar.gz"
    file.write_bytes(packed(strangers(trained_forecasts[0], **card)))

    def work() -> None:
        deadline = time.monotonic() + 60
        while not rows_of(deployment, tenant) and time.monotonic() < deadline:
            onboarded(deployment, energy, tenant)
            time.sleep(0.05)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        arguments = ["import", str(tenant), str(file), "--workload", "energy", "--wait"]
        told = caller(deployment)(*arguments, status=1 if card else 0)
    finally:
        worker.join()
    if card:
        assert "is refused: card.json does not say that the model is of the family" in told.stderr
    else:
        assert f"registered as version {champion_of(deployment, tenant).version}" in told.stdout
        story = caller(deployment)("tenant", str(tenant), "--workload", "energy").stdout
        assert "made elsewhere" in story
