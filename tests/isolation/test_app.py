"""The code in docs/for-the-app.md works, and the policies that the page names allow its calls."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

from tenantry.aws import objects
from tenantry.aws.notices import Notice, tell_tenant
from tenantry.hosting.endpoints import ensure_endpoint
from tenantry.hosting.shapes.asynchronous import ASYNCHRONOUS
from tenantry.hosting.shapes.multi_model import MULTI_MODEL
from tenantry.names import ids, s3_keys
from tenantry.names.tiers import Shared
from tests.isolation import rules
from tests.isolation.calls import as_requests, recorded
from tests.isolation.judge import Judge
from tests.isolation.template import ACCOUNT, Template
from tests.tenantry.onboarding.registration import NAME
from tests.tenantry.serving.conftest import world  # noqa: F401 - a fixture
from tests.tenantry.serving.tiny_family import MEANS, World, parking

PAGE = Path(__file__).resolve().parents[2] / "docs/for-the-app.md"


def test_the_apps_code_works_and_each_of_its_calls_is_allowed(
    world: World,  # noqa: F811 - the fixture
    judge: Judge,
    template: Template,
    tmp_path: Path,
) -> None:
    deployment, tenant = world.deployment, world.tenant()
    ensure_endpoint(deployment, world.tiny, Shared("bridge"), MULTI_MODEL)
    # The pool has no real-time endpoint.
    ensure_endpoint(deployment, world.tiny, Shared("pool"), ASYNCHRONOUS)
    parked, hold = world.tenant(tier="pool"), tmp_path / "hold"
    predicted = s3_keys.prediction(NAME, tenant, ids.batch_name("nightly"), date(2026, 1, 2))
    objects.write_bytes(deployment.s3, deployment.data_bucket, predicted, b'{"mean": 1}\n')
    tell_tenant(deployment, Notice("model_ready", NAME, tenant, "Your model is ready."))
    shown = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) == 8
    first = ids.version_name("v1")
    for key, content in (
        (s3_keys.first_result(NAME, tenant, first, ids.file_name("00.png")), b"a picture"),
        (
            s3_keys.first_results_index(NAME, tenant, first),
            b'{"format": 1, "files": [{"name": "00.png", "bytes": 9}]}',
        ),
    ):
        objects.write_bytes(deployment.s3, deployment.data_bucket, key, content)
    names: dict[str, Any] = {
        "content": b"customer_id,timestamp,consumption\n",
        "archive": b"of a model",
        "digest": objects.sha256(b"of a model"),
        "print": lambda *said: heard.append(said),
    }
    heard: list[Any] = []

    with recorded() as calls:
        for block in shown:
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - our own page
        with names["client_of"](tenant, world.tiny) as client:
            client.upload({"x.csv": b"1"})
            assert client.requests() == []
            for _ in range(2):  # the second time from the cache
                client.predict({"add": 1, "seed": 7})
            client.wait(client.submit({"add": 2, "seed": 7}), 60)
            client.submit({"add": 2, "seed": 7})
            assert client.predictions(date(2026, 1, 2)) == [{"mean": 1}]
            assert names["first_results"](client, first) == [b"a picture"]
        with names["client_of"](parked, parking(world.tiny)) as client:
            request = {"add": 2, "seed": 7, "wait_for": str(hold)}
            ticket = names["answer_or_ticket"](client, request, 0.0)
            assert client.result(ticket) is None
            hold.touch()
            assert json.loads(client.wait(ticket, 60).content)["mean"] == MEANS[parked] + 2
            assert names["answer_or_ticket"](client, request, 60.0)["mean"] == MEANS[parked] + 2

    assert heard == [(tenant, "Your model is ready.")]
    with_app = deployment.session.get_credentials()
    assert with_app is not None
    by_sessions = [call for call in calls if call.access_key != with_app.access_key]
    # The page's own calls are acme's; a session is one tenant's.
    tags = dict(
        zip(
            dict.fromkeys(call.access_key for call in by_sessions),
            (*["acme"] * 4, str(tenant), str(parked)),
            strict=True,
        )
    )
    asked = []
    for call in calls:
        if call.access_key == with_app.access_key:
            asked += as_requests(template, call, rules.APP, ("AppPolicy", "AsyncClientPolicy"), {})
        else:
            role = f"arn:aws:sts::{ACCOUNT}:assumed-role/tenantry-TenantClientRole-ABCDEFGHIJKL"
            session = f"{role}/@{tags[call.access_key]}"
            tag = {"aws:PrincipalTag/tenant": tags[call.access_key]}
            asked += as_requests(template, call, session, ("TenantClientRole",), tag)
    decided = judge.decide(rules.every_policy(template), asked)
    refused = [request for request, said in zip(asked, decided, strict=True) if said is not True]
    # The client also looks for SageMaker's failures of a shared endpoint. It is refused, and
    # continues without them.
    assert [request for request in refused if "/async-failures/" not in request.resource] == []
    of_the_client = {(call.service, call.operation) for call in by_sessions}
    assert of_the_client >= {
        ("s3", "GetObject"),
        ("s3", "PutObject"),
        ("dynamodb", "GetItem"),
        ("dynamodb", "Query"),
        ("sagemaker-runtime", "InvokeEndpoint"),
        ("cloudwatch", "PutMetricData"),
    }
    assert ("sagemaker-runtime", "InvokeEndpointAsync") not in of_the_client
    # The session of another tenant is refused all these calls, except for the counts.
    others = [
        request
        for call in by_sessions
        if call.service != "cloudwatch"
        for request in as_requests(
            template,
            call,
            rules.PRINCIPAL,
            ("TenantClientRole",),
            {"aws:PrincipalTag/tenant": "globex"},
        )
    ]
    assert set(judge.decide(rules.every_policy(template), others)) == {False}
