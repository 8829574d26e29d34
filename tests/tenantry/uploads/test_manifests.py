"""Manifests, files and events of uploads: any input becomes a typed value or a refusal with a
cure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, s3_keys
from tenantry.uploads import manifests
from tenantry.uploads.manifests import Manifest, RefusedUploadError, parse_manifest
from tenantry.workloads.schema import Workload, read_workloads
from tenantry.workloads.sections import Parameter

ENERGY = read_workloads()["energy"]
NAME, ACME, U1 = ids.workload_name("energy"), ids.tenant_id("acme"), ids.upload_id("u1")
KEY = s3_keys.upload_manifest(NAME, ACME, U1)
DIGEST = objects.sha256(b"")


def workload_with(**parameters: Parameter) -> dict[str, Workload]:
    """The energy workload with these parameters."""
    upload = ENERGY.upload.model_copy(update={"parameters": parameters})
    return {"energy": ENERGY.model_copy(update={"upload": upload})}


def file_entry(**changed: Any) -> dict[str, Any]:
    return {"name": "consumption.csv", "bytes": 10, "sha256": DIGEST, **changed}


def document(**changed: Any) -> dict[str, Any]:
    return {"format": 1, "workload": "energy", "tenant": "acme", "files": [file_entry()], **changed}


def parsed(said: Any, workloads: Mapping[str, Workload] | None = None, key: str = KEY) -> Manifest:
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    return parse_manifest(content, key, workloads or {"energy": ENERGY})


def test_a_good_manifest_is_read_whole_with_the_workloads_defaults() -> None:
    manifest = parsed(document(parameters={"timezone": "Europe/London"}))
    assert (manifest.workload, manifest.tenant, manifest.upload) == ("energy", "acme", "u1")
    assert manifest.files == (manifests.UploadedFile(ids.file_name("consumption.csv"), 10, DIGEST),)
    assert manifest.parameters == {"timezone": "Europe/London", "country": ""}


@pytest.mark.parametrize(
    ("said", "reason", "code"),
    [
        (document(format=2), "format is not 1", "manifest_format"),
        (document(format=True), "format is not 1", "manifest_format"),
        (
            document(tenant="bolt"),
            "tenant is not 'acme', under which it was uploaded",
            "manifest_other_tenant",
        ),
        (document(tenant=None), "tenant is not 'acme'", "manifest_other_tenant"),
        (document(workload="portraits"), "workload is not 'energy'", "manifest_other_workload"),
        (document(owner="me"), "unknown field 'owner'; remove it", "manifest_field_unknown"),
        (document(files=[]), "at least one file", "manifest_no_files"),
        (document(files={"name": "a.csv"}), "files must be a list", "manifest_no_files"),
        (
            document(files=["a.csv"]),
            r"files\[0\] must have exactly name, bytes and sha256",
            "manifest_file_fields",
        ),
        (
            document(files=[{"name": "a.csv"}]),
            r"files\[0\] must have exactly",
            "manifest_file_fields",
        ),
        (
            document(files=[file_entry(url="s3://")]),
            r"files\[0\] must have exactly",
            "manifest_file_fields",
        ),
        (
            document(files=[file_entry(name="../bolt/data.csv")]),
            r"files\[0\].name",
            "file_name_unusable",
        ),
        (document(files=[file_entry(name="a/b.csv")]), r"files\[0\].name", "file_name_unusable"),
        (document(files=[file_entry(name="..%2Fb.csv")]), r"files\[0\].name", "file_name_unusable"),
        (document(files=[file_entry(name=".csv")]), r"files\[0\].name", "file_name_unusable"),
        (
            document(files=[file_entry(name="manifest.json")]),
            "the manifest itself",
            "file_name_unusable",
        ),
        (document(files=[file_entry(name=7)]), r"files\[0\].name", "file_name_unusable"),
        (
            document(files=[file_entry(name="model.pkl")]),
            r"^model.pkl is not of a type that energy takes. Upload .* types: csv, parquet.$",
            "file_type_not_taken",
        ),
        (
            document(files=[file_entry(name="csv")]),
            "^csv is not of a type that energy takes",
            "file_type_not_taken",
        ),
        (document(files=[file_entry(), file_entry()]), "names one file twice", "file_twice"),
        (
            document(files=[file_entry(bytes=-1)]),
            r"files\[0\].bytes must be a whole number",
            "manifest_file_bytes",
        ),
        (document(files=[file_entry(bytes=1.5)]), r"files\[0\].bytes", "manifest_file_bytes"),
        (document(files=[file_entry(bytes=True)]), r"files\[0\].bytes", "manifest_file_bytes"),
        (
            document(files=[file_entry(sha256="abc")]),
            r"files\[0\].sha256 must be 64",
            "manifest_file_sha256",
        ),
        (
            document(files=[file_entry(sha256="g" * 64)]),
            r"files\[0\].sha256",
            "manifest_file_sha256",
        ),
        (
            document(files=[file_entry(name=name) for name in ("Zähler.csv", "Za\u0308hler.csv")]),
            "twice",
            "file_twice",
        ),
        (
            document(files=[file_entry(name=".DS_Store"), file_entry(name="._a.csv")]),
            "systems leave",
            "manifest_no_files",
        ),
        (document(files=[file_entry(sha256=None)]), r"files\[0\].sha256", "manifest_file_sha256"),
        (
            document(files=[file_entry(name=f"{n}.csv") for n in range(5)]),
            "5 files; energy takes at most 4. Upload fewer files.",
            "too_many_files",
        ),
        (
            document(files=[file_entry(bytes=64 * 1024 * 1024 + 1)]),
            "at most 64 MB. Upload fewer or smaller files.",
            "upload_too_large",
        ),
        (document(files=[file_entry(bytes=10**400)]), "at most 64 MB", "upload_too_large"),
        (document(parameters=None), "parameters must be an object", "parameters_not_object"),
        (
            document(parameters=["timezone"]),
            "parameters must be an object",
            "parameters_not_object",
        ),
        (
            document(parameters={"colour": "red"}),
            "parameters.colour is not known; known are: timezone, country",
            "parameter_unknown",
        ),
        (
            document(parameters={"timezone": 1}),
            "parameters.timezone must be a string of at most 200 characters",
            "parameter_type",
        ),
        (document(parameters={"timezone": "x" * 201}), "parameters.timezone", "parameter_type"),
        (document(parameters={"timezone": "\ud800"}), "not Unicode", "manifest_not_unicode"),
        (document(parameters={"\ud800": "x"}), "not Unicode", "manifest_not_unicode"),
        ([], "must be a JSON object", "manifest_not_object"),
        (b"", "not JSON", "manifest_not_json"),
        (b"\xff\xfe\xff", "not JSON", "manifest_not_json"),
        (b"[" * 60_000, "not JSON", "manifest_not_json"),
        (b'{"format": 1' + b"0" * 5000 + b"}", "not JSON", "manifest_not_json"),
        (b" " * (64 * 1024 + 1), "at most 65536", "manifest_too_large"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_bad_manifest_is_refused_with_field_and_cure(said: Any, reason: str, code: str) -> None:
    with pytest.raises(RefusedUploadError, match=reason) as refused:
        parsed(said)
    # The reason goes into a table row and to the owner's app.
    str(refused.value).encode()
    assert len(str(refused.value)) < 1000
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", ["", "x"], [1, True, ["x"], {}]),
        ("boolean", [True, False], [0, 1, "true"]),
        ("integer", [0, -3], [True, 1.0, "1"]),
        ("number", [0, 1.5, -2], [True, "1", [1]]),
    ],
)
def test_parameters_have_the_type_the_workload_declares(
    kind: Any, good: list[Any], bad: list[Any]
) -> None:
    workloads = workload_with(knob=Parameter(type=kind))
    for value in good:
        assert parsed(document(parameters={"knob": value}), workloads).parameters == {"knob": value}
    for value in bad:
        with pytest.raises(RefusedUploadError, match=f"parameters.knob must be a {kind}"):
            parsed(document(parameters={"knob": value}), workloads)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused_since_no_json_could_carry_it_on(word: str) -> None:
    said = json.dumps(document(parameters={"knob": 0})).replace('"knob": 0', f'"knob": {word}')
    with pytest.raises(RefusedUploadError, match=r"not JSON|parameters.knob must be a number"):
        parsed(said.encode(), workload_with(knob=Parameter(type="number")))


def test_a_required_parameter_has_to_be_there_and_an_optional_one_may_be_null() -> None:
    workloads = workload_with(
        subject=Parameter(type="string", required=True, description="whose face"),
        colour=Parameter(type="string"),
    )
    assert parsed(document(parameters={"subject": "me", "colour": None}), workloads).parameters == {
        "subject": "me"
    }
    with pytest.raises(RefusedUploadError, match=r"parameters.subject is missing: whose face"):
        parsed(document(), workloads)


def test_an_upload_for_a_workload_nobody_offers_is_refused_and_told_which_there_are() -> None:
    key = s3_keys.upload_manifest(ids.workload_name("tarot"), ACME, U1)
    with pytest.raises(
        RefusedUploadError, match="no workload 'tarot'; upload under one of: energy"
    ):
        parsed(document(), key=key)


@pytest.mark.parametrize(
    "key", ["uploads/ACME/energy/u1/manifest.json", "uploads/acme/energy/manifest.json", "x"]
)
def test_a_manifest_under_a_key_that_is_no_tenants_is_not_read(key: str) -> None:
    with pytest.raises(ids.InvalidIdError):
        parsed(document(), key=key)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
ALMOST = st.fixed_dictionaries(
    {},
    optional={
        "format": st.just(1) | JSON,
        "workload": st.just("energy") | JSON,
        "tenant": st.just("acme") | JSON,
        "files": JSON
        | st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.just("a.csv") | JSON,
                    "bytes": st.integers() | JSON,
                    "sha256": st.just(DIGEST) | JSON,
                }
            ),
            max_size=3,
        ),
        "parameters": JSON | st.dictionaries(st.sampled_from(["timezone", "country", "x"]), JSON),
    },
)


@given(
    said=st.binary(max_size=200)
    | JSON.map(lambda j: json.dumps(j).encode())
    | ALMOST.map(lambda j: json.dumps(j).encode())
)
@example(
    b'{"format":1,"workload":"energy","tenant":"acme","files":[{"name":"a.csv","bytes":1,"sha256":"'
    + b"0" * 64
    + b'"}]}'
)
def test_whatever_is_uploaded_becomes_a_manifest_or_a_refusal(said: bytes) -> None:
    try:
        manifest = parsed(said)
    except RefusedUploadError as refused:
        str(refused).encode()  # it can be stored and sent
        return
    assert manifest.tenant == ACME
    assert 0 <= sum(file.size for file in manifest.files) <= ENERGY.upload.max_bytes
    json.dumps(dict(manifest.parameters), allow_nan=False, ensure_ascii=False).encode()


def test_a_digest_may_be_written_in_capitals() -> None:
    assert (
        parsed(document(files=[file_entry(sha256=DIGEST.upper())])).files
        == parsed(document()).files
    )


def test_files_that_systems_leave_behind_are_left_out_by_name() -> None:
    left = [
        "._consumption.csv",
        "._manifest.json",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "__MACOSX/._consumption.csv",
        "Desktop.ini",
        "Icon\r",
    ]
    manifest = parsed(
        document(files=[file_entry(), *(file_entry(name=name, bytes="?") for name in left)])
    )
    assert [file.name for file in manifest.files] == ["consumption.csv"]
    assert manifest.left_out == (*left[:-1], "Icon?")
    assert manifest.request == parsed(document()).request


def test_a_file_of_another_name_is_other_content() -> None:
    """The name of a picture is its caption."""
    red, blue = (
        parsed(document(files=[file_entry(name=name)])) for name in ("red.csv", "blue.csv")
    )
    assert red.request != blue.request
    composed, decomposed = (
        parsed(document(files=[file_entry(name=n)])) for n in ("Zähler.csv", "Za\u0308hler.csv")
    )
    assert composed.request == decomposed.request
    swapped = [
        [file_entry(name=a, sha256="a" * 64), file_entry(name=b, sha256="b" * 64)]
        for a, b in ("xy", "yx")
        for a, b in ((f"{a}.csv", f"{b}.csv"),)
    ]
    assert parsed(document(files=swapped[0])).request != parsed(document(files=swapped[1])).request


def test_equal_content_is_one_request_whatever_the_upload_is_called() -> None:
    files = [file_entry(name="a.csv", sha256="a" * 64), file_entry(name="b.csv", sha256="b" * 64)]
    first = parsed(document(files=files, parameters={"timezone": "UTC", "country": "GB"}))
    again = parsed(
        document(files=files[::-1], parameters={"country": "GB", "timezone": "UTC"}),
        key=s3_keys.upload_manifest(NAME, ACME, ids.upload_id("u2")),
    )
    assert first.request == again.request
    assert parsed(document(files=files)).request != first.request
    assert parsed(document(files=files[:1], parameters={"country": "GB"})).request != first.request


def imported(**changed: Any) -> dict[str, Any]:
    archive = file_entry(name="model.tar.gz")
    return document(**{"files": [archive], "purpose": "import", **changed})


def test_an_import_is_one_archive_of_its_own_limits_whatever_its_name() -> None:
    manifest = parsed(imported())
    assert (manifest.purpose, manifest.parameters, manifest.group([])) == ("import", {}, "import")
    renamed = parsed(imported(files=[file_entry(name="again.TAR.GZ")]))
    assert renamed.request == manifest.request
    other = parsed(imported(files=[file_entry(name="model.tar.gz", sha256="1" * 64)]))
    assert other.request != manifest.request
    assert parsed(document(purpose="training")) == parsed(document())


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (imported(purpose="predict"), "purpose_unknown"),
        (imported(purpose=None), "purpose_unknown"),
        (imported(purpose=["import"]), "purpose_unknown"),
        (imported(files=[file_entry()]), "file_type_not_taken"),
        (imported(files=[file_entry(name="model.gz")]), "file_type_not_taken"),
        (imported(files=[file_entry(name=f"{n}.tar.gz") for n in range(2)]), "too_many_files"),
        (imported(files=[file_entry(name="m.tar.gz", bytes=3 << 20)]), "upload_too_large"),
        (imported(parameters={"timezone": "UTC"}), "parameter_unknown"),
        (document(files=[file_entry(name="model.tar.gz")]), "file_type_not_taken"),
    ],
)
def test_an_unusable_import_is_refused_by_its_manifest(said: Any, code: str) -> None:
    with pytest.raises(RefusedUploadError) as refused:
        parsed(said)
    assert refused.value.code == code


def test_a_workload_without_imports_says_what_to_do_instead() -> None:
    without = {"energy": ENERGY.model_copy(update={"imports": None})}
    with pytest.raises(RefusedUploadError, match="Upload the data to make one") as refused:
        parsed(imported(), without)
    assert refused.value.code == "imports_not_taken"


# ---- files ---------------------------------------------------------------------------------------


def test_files_are_fetched_as_the_manifest_declares_them_and_lies_are_refused(
    deployment: Deployment, tmp_path: Path
) -> None:
    key = manifests.put_upload(
        deployment, NAME, ACME, U1, {"a.csv": b"x,y\n", "b.csv": b"1,2\n"}, {"timezone": "UTC"}
    )
    manifest = manifests.read_manifest(deployment, key, {"energy": ENERGY})
    paths = manifests.fetch_files(deployment, manifest, tmp_path)
    assert [(path.name, path.read_bytes()) for path in paths] == [
        ("a.csv", b"x,y\n"),
        ("b.csv", b"1,2\n"),
    ]

    file = s3_keys.upload_file(NAME, ACME, U1, ids.file_name("b.csv"))
    for content, reason, code in [
        (b"1,3\n", "b.csv is not the file its manifest declares", "file_digest_differs"),
        (b"1,2", "b.csv is not the file its manifest declares", "file_digest_differs"),
        (b"1,2\n" * 100, "b.csv is larger than the 4 bytes", "file_size_differs"),
    ]:
        objects.write_bytes(deployment.s3, deployment.uploads_bucket, file, content)
        with pytest.raises(RefusedUploadError, match=reason) as refused:
            manifests.fetch_files(deployment, manifest, tmp_path)
        assert refused.value.code == code
    deployment.s3.delete_object(Bucket=deployment.uploads_bucket, Key=file)
    with pytest.raises(
        RefusedUploadError, match=r"b.csv is named by the manifest but was not uploaded"
    ) as refused:
        manifests.fetch_files(deployment, manifest, tmp_path)
    assert refused.value.code == "file_not_uploaded"


def test_files_come_back_under_the_names_that_people_gave_them(
    deployment: Deployment, tmp_path: Path
) -> None:
    names = [
        "Verbrauch 2026 (1).csv",
        "Za\u0308hler.csv",
        "a+b.csv",
        "50% #1 ?*.csv",
        "📈" * 62 + ".csv",
    ]
    workloads = {
        "energy": ENERGY.model_copy(
            update={"upload": ENERGY.upload.model_copy(update={"max_files": 9})}
        )
    }
    key = manifests.put_upload(deployment, NAME, ACME, U1, {name: name.encode() for name in names})
    paths = manifests.fetch_files(
        deployment, manifests.read_manifest(deployment, key, workloads), tmp_path
    )
    assert [(path.name, path.read_bytes()) for path in paths] == [
        (name, name.encode()) for name in names
    ]
    listed = deployment.s3.list_objects_v2(Bucket=deployment.uploads_bucket)["Contents"]
    assert {found["Key"].split("/", 4)[4] for found in listed} == {*names, "manifest.json"}


def test_a_manifest_that_is_missing_or_too_large_says_so(deployment: Deployment) -> None:
    with pytest.raises(objects.ObjectMissingError, match=KEY):
        manifests.read_manifest(deployment, KEY, {"energy": ENERGY})
    objects.write_bytes(
        deployment.s3, deployment.uploads_bucket, KEY, b" " * (manifests.MAX_MANIFEST_BYTES + 1)
    )
    with pytest.raises(RefusedUploadError, match="too large; at most 65536"):
        manifests.read_manifest(deployment, KEY, {"energy": ENERGY})


def test_a_file_that_could_not_be_named_is_not_uploaded(deployment: Deployment) -> None:
    with pytest.raises(ids.InvalidIdError):
        manifests.put_upload(deployment, NAME, ACME, U1, {"../a.csv": b""})
    assert deployment.s3.list_objects_v2(Bucket=deployment.uploads_bucket)["KeyCount"] == 0


# ---- events --------------------------------------------------------------------------------------


def record(key: str, bucket: str = "uploads", event: str = "ObjectCreated:Put") -> dict[str, Any]:
    return {
        "eventName": event,
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}},
    }


def told(*records: Any) -> list[str]:
    return list(manifests.manifest_keys_in_event(json.dumps({"Records": records}), "uploads"))


def test_an_event_tells_the_keys_that_were_created_in_this_bucket() -> None:
    assert told(record(KEY)) == [KEY]
    assert told(record("uploads/a b/+/ü%2F")) == ["uploads/a b/+/ü%2F"]
    assert told(
        record(KEY), record("k", bucket="other"), record("k", event="ObjectRemoved:Delete")
    ) == [KEY]
    assert told(record(KEY, event="ObjectCreated:CompleteMultipartUpload")) == [KEY]


def test_the_event_s3_sends_when_it_is_configured_tells_nothing() -> None:
    body = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "uploads"})
    assert list(manifests.manifest_keys_in_event(body, "uploads")) == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "[]",
        "null",
        "7",
        "{}",
        '{"Records": []}',
        '{"Records": {}}',
        '{"Records": [1]}',
        '{"Records": [{}]}',
        '{"Records": [{"s3": null}]}',
        "[" * 60_000,
        '{"Records": ' + "[" * 60_000,
        json.dumps(
            {
                "Records": [
                    {
                        "eventName": "ObjectCreated:Put",
                        "s3": {"bucket": {"name": "uploads"}, "object": {"key": 5}},
                    }
                ]
            }
        ),
        json.dumps(
            {
                "Records": [
                    {"eventName": "ObjectCreated:Put", "s3": {"bucket": "uploads", "object": "k"}}
                ]
            }
        ),
    ],
    ids=lambda body: body[:40],
)
def test_what_is_no_event_is_called_so(body: str) -> None:
    # The function promises any kind of ValueError.
    with pytest.raises(ValueError):  # noqa: PT011
        list(manifests.manifest_keys_in_event(body, "uploads"))


@given(body=st.text() | JSON.map(json.dumps) | JSON.map(lambda j: json.dumps({"Records": [j]})))
def test_whatever_lies_in_the_queue_is_an_event_or_is_called_none(body: str) -> None:
    try:
        assert all(
            isinstance(key, str) for key in manifests.manifest_keys_in_event(body, "uploads")
        )
    except ValueError:
        return
