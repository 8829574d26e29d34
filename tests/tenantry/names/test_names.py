"""Ids are checked once, and only checked ids become keys and names."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from urllib.parse import unquote

import boto3
import pytest
from botocore.validate import ParamValidator
from hypothesis import example, given
from hypothesis import strategies as st

from tenantry.names import ids, s3_keys, sagemaker_names, table_keys, tiers
from tenantry.names.tiers import Own, Shared, machines_of

TENANTS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
WORKLOADS = st.from_regex(r"[a-z][a-z0-9]{0,19}", fullmatch=True)
UPLOADS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
# Values of the stack's parameter Prefix.
PREFIXES = st.from_regex(r"[a-z][a-z0-9-]{1,20}", fullmatch=True)
# https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html, and the same
# for the others
SAGEMAKER_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
PARSERS: list[Callable[[object], str]] = [
    ids.tenant_id,
    ids.model_name,
    ids.workload_name,
    ids.upload_id,
    ids.version_name,
    ids.pack_id,
    ids.request_id,
    ids.question_id,
]
TRICKS = [
    "",
    ".",
    "..",
    "../acme",
    "acme/..",
    "acme/",
    "/acme",
    "a/b",
    "a\\b",
    "acme%2F..",
    "%2e%2e",
    "acme\n",
    "acme\0",
    "acme ",
    "ａｃｍｅ",
    "äcme",
    "acme\u202e",
    "acme#energy",
    "acme*",
    "acme?",
    "${aws:PrincipalTag/tenant}",
    "a" * 300,
    None,
    7,
    b"acme",
    ["acme"],
]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.__name__)
@pytest.mark.parametrize("trick", TRICKS, ids=repr)
def test_what_could_lead_out_of_a_tenants_prefix_is_not_an_id(
    parser: Callable[[object], str], trick: object
) -> None:
    with pytest.raises(ids.InvalidIdError) as refused:
        parser(trick)
    assert "must match" in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("parser", "good"),
    [
        (ids.tenant_id, "acme-7"),
        (ids.workload_name, "energy"),
        (ids.upload_id, "2026_Q1-a"),
        (ids.file_name, "Usage.2026-01.csv"),
        (ids.version_name, "20261121t100000-1a2b3c4d"),
        (ids.pack_id, "p-0123456789abcdef"),
        (ids.request_id, "0" * 32),
        (ids.question_id, "f" * 32),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_an_id_comes_back_as_it_was(parser: Callable[[object], str], good: str) -> None:
    assert parser(good) == good


@pytest.mark.parametrize("text", ["Acme", "-acme", "acme_1", "a" * 64, "me@example.org"])
def test_a_tenant_id_is_lower_case_and_no_address_or_name(text: str) -> None:
    with pytest.raises(ids.InvalidIdError, match="is not a tenant id"):
        ids.tenant_id(text)


FILE_NAMES = [
    "Verbrauch 2026 (1).csv",
    "Zähler.csv",
    "Za\u0308hler.csv",
    "a+b.csv",
    "größe & länge, 50% #1 [neu].csv",
    "📈 meter.csv",
    "👨‍👩‍👧.png",
    "消費量.csv",
    "استهلاك.csv",
    "it's $5.csv",
    "what? *.csv",
    "a=b;c@d!.csv",
    "-a.csv",
    "_a.csv",
    "a..b.csv",
    "é" * 125 + ".csv",
    "a" * 251 + ".csv",
]


@pytest.mark.parametrize("name", FILE_NAMES)
def test_a_file_is_named_as_people_name_files(name: str) -> None:
    assert ids.file_name(name) == name


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("", "at least one character"),
        (None, "is text"),
        (7, "is text"),
        (b"a.csv", "is text"),
        (["a.csv"], "is text"),
        ("../a.csv", "no folder"),
        ("a/b.csv", "no folder"),
        ("a\\b.csv", "no folder"),
        ("x..%2Fa.csv", "no folder"),
        ("..%2Fa.csv", "a dot"),
        ("a%5cb.csv", "no folder"),
        (".", "a dot"),
        ("..", "a dot"),
        (".hidden.csv", "a dot"),
        ("%2e%2e", "a dot"),
        ("a\nb.csv", "control"),
        ("a\0.csv", "control"),
        ("a\x85.csv", "control"),
        ("a\u2028.csv", "control"),
        ("a%00.csv", "control"),
        ("a\ud800.csv", "control"),
        ("a\u202evsc.exe", "direction"),
        ("a\u2066.csv", "direction"),
        ("a.csv ", "blank"),
        ("\u00a0a.csv", "blank"),
        ("a" * 252 + ".csv", "255 bytes"),
        ("é" * 126 + ".csv", "255 bytes"),
        ("manifest.json", "the manifest itself"),
    ],
)
def test_a_file_name_that_leads_elsewhere_or_hides_what_it_is_is_refused_in_words(
    name: object, wrong: str
) -> None:
    with pytest.raises(ids.InvalidIdError, match=wrong) as refused:
        ids.file_name(name)
    # The message is a sentence for people, without a pattern and without the unchecked name.
    assert not set("[]{}^$\\") & set(str(refused.value))
    assert str(refused.value).isascii()


@given(name=st.text(st.characters(codec="utf-8")) | st.text(".%/2eEfF\\ a", max_size=8))
def test_a_file_name_never_changes_the_number_of_parts_of_a_key(name: str) -> None:
    try:
        checked = ids.file_name(name)
    except ids.InvalidIdError:
        return
    key = s3_keys.upload_file(
        ids.workload_name("energy"), ids.tenant_id("acme"), ids.upload_id("u1"), checked
    )
    assert key.split("/") == ["uploads", "acme", "energy", "u1", name]
    assert unquote(key).split("/")[:4] == ["uploads", "acme", "energy", "u1"]
    assert len(unquote(key).split("/")) == 5
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
    assert len(key.encode()) <= 1024


@given(text=st.text() | TENANTS)
def test_a_tenant_id_never_changes_the_number_of_parts_of_a_key(text: str) -> None:
    try:
        tenant = ids.tenant_id(text)
    except ids.InvalidIdError:
        return
    workload = ids.workload_name("energy")
    key = s3_keys.upload_manifest(workload, tenant, ids.upload_id("u1"))
    assert key.split("/") == ["uploads", text, "energy", "u1", "manifest.json"]
    assert table_keys.table_partition(tenant, workload).split("#") == [text, "energy"]
    assert sagemaker_names.target_model(tenant, ids.version_name("v1")).split("/") == [
        text,
        "v1.tar.gz",
    ]


@given(workload=WORKLOADS, tenant=TENANTS, upload=UPLOADS)
def test_a_manifests_key_gives_back_what_it_was_made_of(
    workload: str, tenant: str, upload: str
) -> None:
    three = (ids.workload_name(workload), ids.tenant_id(tenant), ids.upload_id(upload))
    assert s3_keys.parse_manifest_key(s3_keys.upload_manifest(*three)) == three


@given(
    key=st.text()
    | st.lists(st.sampled_from(["uploads", "energy", "acme", "..", "", "u1", "manifest.json"])).map(
        "/".join
    )
)
@example("uploads/ACME/energy/u1/manifest.json")
@example("uploads/acme/energy/../manifest.json")
@example("uploads/acme/energy/u1/deeper/manifest.json")
@example("uploads/acme/energy/u1/manifest.json/")
@example("/uploads/acme/energy/u1/manifest.json")
def test_a_key_is_a_manifests_or_is_refused(key: str) -> None:
    try:
        found = s3_keys.parse_manifest_key(key)
    except ids.InvalidIdError:
        return
    assert s3_keys.upload_manifest(*found) == key


@given(
    prefix=PREFIXES,
    workload=WORKLOADS,
    tenant=TENANTS,
    tier=st.sampled_from(["silo", "bridge", "pool"]),
    members=st.lists(st.text(), min_size=1, max_size=3),
    batch=st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
)
@example("a" * 21, "w" * 20, "t" * 63, "silo", ["x"], "b-" + "0" * 12)
def test_names_are_valid_for_sagemaker_however_long_their_parts(
    prefix: str, workload: str, tenant: str, tier: tiers.Tier, members: list[str], batch: str
) -> None:
    name, who = ids.workload_name(workload), ids.tenant_id(tenant)
    names = [
        sagemaker_names.training_job_name(prefix, name, ids.pack_id_of(members)),
        sagemaker_names.training_job_name(prefix, name, ids.pack_id("p-" + "1" * 40)),
        sagemaker_names.training_job_name(prefix, name, ids.pack_id_of(members, who)),
        sagemaker_names.silo_role_name(  # IAM takes 64 characters
            sagemaker_names.endpoint_name(prefix, name, Own(who)), "ap-southeast-1"
        ),
        sagemaker_names.transform_job_name(prefix, name, date(2026, 1, 2), batch),
        sagemaker_names.endpoint_name(prefix, name, machines_of(tier, who)),
        sagemaker_names.shaped_endpoint_name(prefix, name, machines_of(tier, who), "async"),
        sagemaker_names.content_addressed_name(
            sagemaker_names.endpoint_name(prefix, name, machines_of(tier, who)), {"tier": tier}
        ),
    ]
    for made in names:
        assert SAGEMAKER_NAME.fullmatch(made), made
        assert made.startswith(f"{prefix}-")


@given(prefix=PREFIXES, workload=WORKLOADS, tenant=TENANTS)
@example("a" * 15, "w" * 6, "t")
@example("a" * 15, "w" * 7, "t")
def test_the_end_of_a_silo_endpoints_name_is_found_unless_the_name_was_shortened(
    prefix: str, workload: str, tenant: str
) -> None:
    name, own = ids.workload_name(workload), Own(ids.tenant_id(tenant))
    home = sagemaker_names.endpoint_name(prefix, name, own)
    found = {
        sagemaker_names.without_end(sagemaker_names.shaped_endpoint_name(prefix, name, own, end))
        for end in sagemaker_names.ENDPOINT_ENDS
    }
    winter = Own(ids.model_of(own.tenant, ids.model_name("winter")))
    longest = sagemaker_names.model_endpoint_name(prefix, name, winter, "serverless")
    found.add(sagemaker_names.without_end(longest))
    assert (found == {home}) != sagemaker_names.silo_names_are_shortened(prefix, name)


@given(tenants=st.lists(TENANTS, min_size=2, max_size=2, unique=True), member=st.text())
def test_a_silo_tenants_packs_and_batches_lead_with_it_alone(
    tenants: list[str], member: str
) -> None:
    one, other = map(ids.tenant_id, tenants)
    for named, first in ((ids.pack_id_of, "p"), (ids.batch_name_of, "b")):
        leads = f"{first}-{ids.silo_digest(one)}-"
        assert named([member], one).startswith(leads)
        assert not named([member], other).startswith(leads)
        assert not named([member]).startswith(leads)
        assert ids.version_name(ids.batch_name_of([member], one))
    assert ids.pack_id(ids.pack_id_of([member], one))


def test_the_pattern_held_to_here_is_the_services_own() -> None:
    model = boto3.client("sagemaker", region_name="eu-west-1").meta.service_model
    for operation, member in [
        ("CreateTrainingJob", "TrainingJobName"),
        ("CreateTransformJob", "TransformJobName"),
        ("CreateEndpoint", "EndpointName"),
    ]:
        said = model.operation_model(operation).input_shape
        assert said is not None
        shape = said.members[member]
        assert shape.metadata["pattern"] == SAGEMAKER_NAME.pattern
        assert (
            not ParamValidator().validate("a" * shape.metadata.get("max", 63), shape).has_errors()
        )


def test_long_names_that_differ_at_their_end_stay_different() -> None:
    prefix, name, day = "a" * 21, ids.workload_name("w" * 20), date(2026, 1, 2)
    assert (
        len(
            {
                sagemaker_names.transform_job_name(prefix, name, day, "b-" + "0" * 40 + end)
                for end in "abc"
            }
        )
        == 3
    )
    assert (
        len(
            {
                sagemaker_names.training_job_name(prefix, name, ids.pack_id("p-" + "0" * 39 + end))
                for end in "abc"
            }
        )
        == 3
    )
    endpoints = [
        sagemaker_names.endpoint_name(prefix, name, Own(ids.tenant_id(tenant)))
        for tenant in ("acme", "bolt")
    ]
    assert len(set(endpoints)) == 2
    assert (
        len(
            {
                sagemaker_names.content_addressed_name(endpoints[0], {"instances": count})
                for count in (1, 2, 3)
            }
        )
        == 3
    )


def test_silo_tenants_have_endpoints_of_their_own_and_the_others_share() -> None:
    name = ids.workload_name("energy")
    acme, bolt = ids.tenant_id("acme"), ids.tenant_id("bolt")
    assert sagemaker_names.endpoint_name(
        "tenantry", name, Own(acme)
    ) != sagemaker_names.endpoint_name("tenantry", name, Own(bolt))
    assert machines_of("bridge", acme) == machines_of("bridge", bolt) == Shared("bridge")
    assert machines_of("silo", acme) == Own(acme)
    assert sagemaker_names.endpoint_name(
        "tenantry", name, Shared("pool")
    ) != sagemaker_names.endpoint_name("tenantry", name, Shared("bridge"))


@given(workload=WORKLOADS, tenant=TENANTS, content=st.text(), other=st.text())
def test_a_requests_id_tells_contents_apart_and_repeats_itself(
    workload: str, tenant: str, content: str, other: str
) -> None:
    name, who = ids.workload_name(workload), ids.tenant_id(tenant)
    made = ids.request_id_of(name, who, content)
    assert ids.request_id(made) == ids.request_id_of(name, who, content)
    assert (made == ids.request_id_of(name, who, other)) == (content == other)


@given(seconds=st.integers(0, 10**9), later=st.integers(1, 10**9))
def test_a_later_version_sorts_after_an_earlier_one(seconds: int, later: int) -> None:
    first, second = (
        ids.version_of("x", datetime.fromtimestamp(at, UTC)) for at in (seconds, seconds + later)
    )
    assert ids.version_name(first) < ids.version_name(second)


def test_a_pack_has_the_same_id_in_whatever_order_its_members_are_listed() -> None:
    assert ids.pack_id_of(["a", "b"]) == ids.pack_id_of(["b", "a"]) != ids.pack_id_of(["a", "c"])
    assert ids.pack_id(ids.pack_id_of(["a"]))


@given(
    workload=WORKLOADS,
    tenants=st.lists(TENANTS, min_size=2, max_size=2, unique=True),
    content=st.text(),
)
def test_two_tenants_who_ask_the_same_have_no_key_in_common(
    workload: str, tenants: list[str], content: str
) -> None:
    name, version = ids.workload_name(workload), ids.version_name("v1")
    made = []
    for tenant in map(ids.tenant_id, tenants):
        question = ids.question_id_of(name, tenant, version, content)
        assert ids.question_id(question) == ids.question_id_of(name, tenant, version, content)
        asked = s3_keys.async_input(name, tenant, question)
        assert s3_keys.parse_async_input(asked) == (name, tenant, question)
        assert sagemaker_names.parse_inference_id(sagemaker_names.inference_id(question, 3)) == (
            question,
            3,
        )
        made.append(
            {
                question,
                asked,
                s3_keys.cached_answer(name, tenant, version, question),
                s3_keys.async_output(name, tenant, question),
                s3_keys.async_submitted(name, tenant, question),
                s3_keys.async_failure(name, tenant, question, 1),
            }
        )
        assert all(key.split("/")[1:-1] == [tenant, name] for key in made[-1] - {question})
    assert not made[0] & made[1]


def test_what_is_asked_is_told_apart_by_version_too() -> None:
    name, acme = ids.workload_name("energy"), ids.tenant_id("acme")
    asked = [
        ids.question_id_of(name, acme, ids.version_name(version), "{}") for version in ("v1", "v2")
    ]
    assert asked[0] != asked[1]


@pytest.mark.parametrize(
    "key",
    [
        "async/acme/energy",
        "async/acme/energy/x.input",
        f"async/ACME/energy/{'0' * 32}.input",
        f"async-failures/energy/{'0' * 32}.input",
        f"cache/acme/energy/{'0' * 32}.input",
        f"async/acme/energy/{'0' * 32}",
        f"async/acme/energy/deeper/{'0' * 32}.input",
    ],
)
def test_another_key_is_not_that_of_a_question(key: str) -> None:
    with pytest.raises(ids.InvalidIdError):
        s3_keys.parse_async_input(key)


@pytest.mark.parametrize(
    "text", ["", "0" * 32, "0" * 32 + "-", "0" * 32 + "-x", "0" * 31 + "-1", "0" * 32 + "-1-1"]
)
def test_another_text_is_no_attempt_at_a_question(text: str) -> None:
    with pytest.raises(ids.InvalidIdError):
        sagemaker_names.parse_inference_id(text)


@given(text=TENANTS)
def test_no_tenants_prefix_is_where_shared_failures_lie(text: str) -> None:
    name = ids.workload_name("energy")
    where = f"{s3_keys.async_failures_prefix(name)}/"
    assert not where.startswith(f"{s3_keys.async_tenant_prefix(name, ids.tenant_id(text))}/")
    assert not where.startswith(f"{s3_keys.ASYNC_ROOT}/")
