"""Two tenants with any names, even names that other things also have: each reaches its own keys,
rows and models, and not the other's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any, Final, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.names import ids, s3_keys, sagemaker_names, table_keys
from tenantry.names.tiers import Own, Shared
from tests.isolation import rules
from tests.isolation.judge import Judge, Request
from tests.isolation.template import ACCOUNT, REGION, Template

# Functions of ``keys`` that do not build keys of buckets. All others count as builders of keys.
NO_BUCKET_KEYS: Final = {
    "parse_manifest_key",
    "parse_async_input",
    "parse_prediction",
    "tenant_of_batch_output",
    "training_data_folder",
    "async_extension",
}
S3_ACTIONS: Final = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:GetObjectVersion",
    "s3:PutObjectAcl",
    "s3:AbortMultipartUpload",
)
DYNAMODB_ACTIONS: Final = (
    "dynamodb:GetItem",
    "dynamodb:Query",
    "dynamodb:PutItem",
    "dynamodb:UpdateItem",
    "dynamodb:DeleteItem",
    "dynamodb:BatchGetItem",
)
# Ids of every kind that may also be tenants' ids, and ids that begin with other ids.
TENANTS: Final = st.sampled_from(
    [
        "acme",
        "acme-2",
        "acme2",
        "a",
        "energy",
        "portraits",
        "2026-01-02",
        "20260102",
        "20260102t030405-1a2b3c4d",
        "u1",
        "v1",
        "0" * 32,
        "f" * 32,
        "p-0123456789abcdef",
        "manifest",
        "models",
        "input",
        "output",
        "uploads",
        "archive",
        "async",
        "cache",
        "async-failures",
    ]
) | st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


def builders() -> Iterator[tuple[str, Callable[..., str]]]:
    """Every function of ``s3_keys`` that builds a key of a bucket."""
    for name, function in inspect.getmembers(s3_keys, inspect.isfunction):
        if (
            function.__module__ == s3_keys.__name__
            and not name.startswith("_")
            and name not in NO_BUCKET_KEYS
        ):
            yield name, function


def an_id(kind: str, fallback: str, *names: str) -> Any:
    """Those names that are valid ids of this kind, and a fallback that always is."""
    parser: Callable[[object], Any] = getattr(ids, kind)
    fitting = []
    for name in (fallback, *names):
        try:
            fitting.append(parser(name))
        except ids.InvalidIdError:
            continue
    return st.sampled_from(fitting)


@st.composite
def built_keys(
    draw: st.DrawFn, /, tenant: ids.ModelId, other: ids.ModelId, **fixed: Any
) -> dict[str, str]:
    """A key from each builder, for the model ``tenant``; every other part that is not ``fixed``
    may have either tenant's name."""
    names = (tenant, other)
    version, day = draw(an_id("version_name", "20260102t030405-1a2b3c4d", *names)), date(2026, 1, 2)
    workload = fixed.get("workload") or draw(an_id("workload_name", "energy", *names))
    pack = fixed.get("pack") or draw(an_id("pack_id", "p-0123456789abcdef", *names))
    question = draw(an_id("question_id", "0" * 32, *names))
    known: dict[str, Any] = {
        "tenant": tenant,
        "workload": workload,
        "version": version,
        "pack": pack,
        "question": question,
        "upload": draw(an_id("upload_id", "u1", *names)),
        "day": day,
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "cadence": draw(an_id("batch_name", "nightly", *names)),
        "batch": draw(an_id("version_name", "b-1", *names)),
        "job": draw(an_id("version_name", "tenantry-energy-20260102-b-1", *names)),
        "attempt": 1,
        "split": draw(an_id("version_name", "s-1", *names)),
        "suffix": ".csv",
        "model": draw(an_id("version_name", "model-txt2img-1", *names)),
        "outcome": "answered",
        "endpoint": "tenantry-energy-bridge",
        "archive": s3_keys.checkpoint_archive(workload, pack, tenant, version),
        **fixed,
    }
    made = {}
    for builder, function in builders():
        taken = dict(known)
        hints = get_type_hints(function)
        taken["name"] = draw(
            an_id(
                "file_name" if hints.get("name") is ids.FileName else "version_name", "x1", *names
            )
        )
        unknown = set(inspect.signature(function).parameters) - set(taken)
        assert not unknown, (
            f"keys.{builder} takes {unknown}, of which this test knows nothing: give it examples, "
            f"or say what it builds"
        )
        key = function(**{name: taken[name] for name in inspect.signature(function).parameters})
        folder = builder.endswith(("_prefix", "_root")) or key.endswith("/")
        made[builder] = f"{key.removesuffix('/')}/x" if folder else key
    return made


def _names(tenants: list[str]) -> list[ids.ModelName]:
    """Those of the ids that may also be models' names."""
    return [ids.ModelName(name) for name in tenants if len(name) <= 32]


def a_session_may(key: str) -> set[str]:
    """The actions on a key that its tenant's session may take."""
    root, _, rest = key.partition("/")
    if root in rules.OF_THE_CONTROL_PLANE:
        return set()
    written = {
        "uploads": True,
        "predictions": False,
        "archive": True,
        "cache": True,
        "async": rest.endswith((".input", ".submitted")),
    }
    assert root in written, (
        f"nobody said whose {key} is: add its root to the rules, and a statement for whoever may "
        f"touch it"
    )
    return ({"s3:PutObject"} if written[root] else set()) | (
        set() if root == "uploads" else {"s3:GetObject"}
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), tenants=st.lists(TENANTS, min_size=2, max_size=2, unique=True))
def test_a_tenants_session_reaches_its_own_and_never_anothers(
    data: st.DataObject, tenants: list[str], judge: Judge, template: Template
) -> None:
    own, other = map(ids.tenant_id, tenants)
    tag = {"aws:PrincipalTag/tenant": own}
    asked: list[tuple[Request, bool]] = []

    def ask(action: str, resource: str, may: bool, **context: str | list[str]) -> None:
        given = {name.replace("__", ":"): value for name, value in context.items()}
        asked.append(
            (
                Request(action, resource, {**given, **tag}, rules.PRINCIPAL, ("TenantClientRole",)),
                may,
            )
        )

    for tenant, foreign in ((own, other), (other, own)):
        # A model's name may be another tenant's id.
        names = st.sampled_from([ids.DEFAULT_MODEL, *_names(tenants)])
        one_model = ids.model_of(tenant, data.draw(names))
        for builder, key in data.draw(built_keys(one_model, foreign)).items():
            bucket = template.arn("UploadsBucket" if key.startswith("uploads/") else "DataBucket")
            permitted = a_session_may(key)
            if permitted:
                assert key.split("/")[1] == tenant, f"keys.{builder}: the tenant does not lead"
            for action in S3_ACTIONS:
                ask(action, f"{bucket}/{key}", tenant == own and action in permitted)
        workload = ids.workload_name(data.draw(an_id("workload_name", "energy", own, other)))
        for table in template.named("AWS::DynamoDB::Table"):
            for action in DYNAMODB_ACTIONS:
                may = tenant == own and action in {"dynamodb:GetItem", "dynamodb:Query"}
                for of_tenants in (
                    table_keys.table_partition,
                    table_keys.history_partition,
                    lambda *of: table_keys.daily_uploads_item(*of).partition,
                ):
                    ask(
                        action,
                        template.arn(table),
                        may,
                        dynamodb__LeadingKeys=[of_tenants(one_model, workload)],
                    )
                of_all = table_keys.table_partition(ids.SHARED, workload)
                reads = action == "dynamodb:GetItem" and table == "ModelsTable"
                ask(action, template.arn(table), reads, dynamodb__LeadingKeys=[of_all])
                for partition in (
                    table_keys.workload_partition(workload),
                    table_keys.ACCOUNT_PARTITION,
                ):
                    ask(action, template.arn(table), False, dynamodb__LeadingKeys=[partition])
        endpoints = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint"
        endpoint = (
            f"{endpoints}/{sagemaker_names.endpoint_name('tenantry', workload, Shared('bridge'))}"
        )
        model = sagemaker_names.target_model(
            one_model, data.draw(an_id("version_name", "v1", own, other))
        )
        ask("sagemaker:InvokeEndpoint", endpoint, tenant == own, sagemaker__TargetModel=model)
        shared = sagemaker_names.target_model(ids.SHARED, ids.version_name("v1"))
        ask("sagemaker:InvokeEndpoint", endpoint, True, sagemaker__TargetModel=shared)
        machines = Own(one_model)
        name = sagemaker_names.shaped_endpoint_name("tenantry", workload, machines, "async")
        silo = f"{endpoints}/{name}"
        asked.append(
            (
                Request(
                    "sagemaker:InvokeEndpointAsync",
                    silo,
                    {"aws:ResourceTag/tenantry:tenant": tenant, **tag},
                    rules.PRINCIPAL,
                    ("TenantClientRole",),
                ),
                tenant == own,
            )
        )
    decided = judge.decide(template.identity_policies(), [request for request, _ in asked])
    wrong = [
        (request, said)
        for (request, may), said in zip(asked, decided, strict=True)
        if said is not may
    ]
    assert not wrong


@pytest.mark.parametrize("action", ["sts:AssumeRole", "sts:TagSession"])
def test_the_app_may_speak_for_any_tenant_and_for_nothing_that_is_no_tenants_id(
    action: str, judge: Judge, template: Template
) -> None:
    @settings(max_examples=50)
    @given(tag=TENANTS | st.from_regex(r"[_/][\w.:/=+\-@]{0,20}", fullmatch=True))
    def holds(tag: str) -> None:
        try:
            may = bool(ids.tenant_id(tag))
        except ids.InvalidIdError:
            may = False
        context: dict[str, str | list[str]] = {
            "aws:RequestTag/tenant": tag,
            "aws:TagKeys": ["tenant"],
        }
        request = Request(
            action,
            template.arn("TenantClientRole"),
            context,
            rules.APP,
            ("AppPolicy",),
            f"{rules.TRUST}TenantClientRole",
        )
        assert judge.decide(rules.every_policy(template), [request]) == [may]

    holds()
