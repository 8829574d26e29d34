"""Uploads: the manifest an app writes last, its checks, and the events S3 sends about it."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from tenantry.aws import objects
from tenantry.errors import TenantryError
from tenantry.names import ids, s3_keys
from tenantry.names.purposes import PURPOSES, Purpose
from tenantry.tracing.spans import continued, span
from tenantry.workloads.schema import Workload
from tenantry.workloads.sections import Imports, Parameter, Upload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_FIELDS: Final = frozenset(
    {"format", "workload", "tenant", "model", "files", "parameters", "purpose"}
)
MAX_MANIFEST_BYTES: Final = 64 * 1024
_TRACEPARENT: Final = "traceparent"  # among the metadata of a manifest's object

LEFT_BEHIND: Final = frozenset(
    {".ds_store", ".localized", "thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r"}
)
"""Files that macOS and Windows leave in people's folders, in small letters."""

LEFT_BEHIND_BEGINNINGS: Final = ("._", "__MACOSX/", "~$", ".~lock.")
"""The prefixes of further such names: macOS's forks of a file, and the locks of Office and
LibreOffice."""

MAX_LEFT_OUT: Final = 20
MAX_LEFT_OUT_CHARACTERS: Final = 80
"""How many of the files that are left out are named, and how many characters of each name."""


class RefusedUploadError(TenantryError, ValueError):
    """An upload that cannot become a model.

    The message is a sentence for the tenant's owner: the fault, and the cure. ``code`` names the
    kind of refusal for programs; it stays the same when the sentence changes.
    """

    def __init__(self, message: str, code: str = "upload_unusable") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class UploadedFile:
    """A file of an upload, as its manifest declares it."""

    name: ids.FileName
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A checked ``manifest.json``; ``uploaded`` is when S3 took it (to the second).

    ``tenant`` is whose upload it is, and for which of its models.

    ``left_out`` names listed files that came along by accident, such as ``.DS_Store``: they are not
    fetched. ``traceparent`` is the trace that its uploader began, empty for none. With the purpose
    ``import`` its only file is the archive of a model.
    """

    workload: ids.WorkloadName
    tenant: ids.ModelId
    upload: ids.UploadId
    files: tuple[UploadedFile, ...]
    parameters: Mapping[str, str | int | float | bool]
    uploaded: datetime | None = None
    left_out: tuple[str, ...] = ()
    traceparent: str = ""
    purpose: Purpose = "training"

    def group(self, together: Sequence[str]) -> str:
        """Digest of the parameters that all tenants of a pack must share; empty when there are
        none.

        Imports are a group of their own, and so are data for inference: they need no job, and so
        wait for none.
        """
        if self.purpose != "training":
            return self.purpose
        if not together:
            return ""
        said = json.dumps([self.parameters.get(name) for name in together])
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    @property
    def content(self) -> str:
        """Digest of the upload's content: its files' names and bytes and its parameters, not their
        order or its id.

        A name may be content, as a picture's is its caption. An archive's name is none.
        """
        if self.purpose == "import":
            said = json.dumps([self.purpose, *(file.sha256 for file in self.files)])
            return hashlib.sha256(said.encode()).hexdigest()
        files = sorted(
            [unicodedata.normalize("NFC", file.name), file.sha256] for file in self.files
        )
        kind = [self.purpose] if self.purpose == "inference" else []
        said = json.dumps([files, dict(sorted(self.parameters.items())), *kind])
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def request(self) -> ids.RequestId:
        """The id of the request this upload makes."""
        return ids.request_id_of(self.workload, self.tenant, self.content)


def parse_manifest(content: bytes, key: str, workloads: Mapping[str, Workload]) -> Manifest:
    """Parse and check a manifest against the key it lies under and its workload's limits.

    Raises:
        RefusedUploadError: with the field and the cure.
        ids.InvalidIdError: the key itself is not a manifest's.
    """
    workload, tenant, upload = s3_keys.parse_manifest_key(key)
    offered = workloads.get(workload)
    if offered is None:
        known = ", ".join(sorted(workloads))
        raise RefusedUploadError(
            f"there is no workload {workload!r}; upload under one of: {known}", "workload_unknown"
        )
    if len(content) > MAX_MANIFEST_BYTES:
        raise _too_large()
    try:
        document = json.loads(content, parse_constant=_not_json)
        # JSON can hold half a surrogate pair, which can neither be kept nor sent.
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RefusedUploadError(
            "manifest.json holds text that is not Unicode; write it as UTF-8 JSON",
            "manifest_not_unicode",
        ) from error
    except (ValueError, RecursionError) as error:
        where = (
            f" (line {error.lineno}, column {error.colno})"
            if isinstance(error, json.JSONDecodeError)
            else ""
        )
        raise RefusedUploadError(
            f"manifest.json is not JSON{where}; write it as UTF-8 JSON", "manifest_not_json"
        ) from error
    if not isinstance(document, dict):
        raise RefusedUploadError(
            "manifest.json must be a JSON object with workload, tenant, files and parameters",
            "manifest_not_object",
        )
    if document.get("format") != 1 or isinstance(document["format"], bool):
        raise RefusedUploadError(
            "manifest.json: format is not 1; this version reads format 1", "manifest_format"
        )
    for name, expected, code in (
        ("workload", workload, "manifest_other_workload"),
        ("tenant", tenant, "manifest_other_tenant"),
    ):
        if document.get(name) != expected:
            raise RefusedUploadError(
                f"manifest.json: {name} is not {expected!r}, under which it was uploaded; they "
                f"must agree",
                code,
            )
    unknown = set(document) - _FIELDS
    if unknown:
        raise RefusedUploadError(
            f"manifest.json: unknown field {sorted(unknown)[0][:80]!r}; remove it",
            "manifest_field_unknown",
        )
    purpose = _purpose(document.get("purpose", "training"))
    imports = purpose == "import"
    if purpose == "inference" and offered.inference is None:
        raise RefusedUploadError(
            f"{offered.name} takes no data for inference. Upload the data for training.",
            "inference_not_taken",
        )
    files, left_out = _files(
        document.get("files"), offered.name, _imports_of(offered) if imports else offered.upload
    )
    # What a model was made with is told in its archive.
    declared = {} if imports else offered.upload.parameters
    parameters = _parameters(document.get("parameters", {}), declared, alone=purpose != "inference")
    model = ids.model_of(tenant, _model_name(document.get("model", ids.DEFAULT_MODEL)))
    return Manifest(workload, model, upload, files, parameters, left_out=left_out, purpose=purpose)


def _model_name(said: Any) -> ids.ModelName:
    try:
        return ids.model_name(said)
    except ids.InvalidIdError as error:
        raise RefusedUploadError(
            f"manifest.json: model cannot be used; {error}. Leave it out for the default model.",
            "model_name_unusable",
        ) from error


def _purpose(said: Any) -> Purpose:
    for purpose in PURPOSES:
        if said == purpose:
            return purpose
    raise RefusedUploadError(
        f"manifest.json: purpose is none of {', '.join(PURPOSES)}; write one of these, or leave it "
        f"out to have a model made",
        "purpose_unknown",
    )


def _imports_of(offered: Workload) -> Imports:
    if offered.imports is None:
        raise RefusedUploadError(
            f"{offered.name} takes no models that were trained elsewhere. Upload the data to make "
            f"one from.",
            "imports_not_taken",
        )
    return offered.imports


def _too_large() -> RefusedUploadError:
    return RefusedUploadError(
        f"manifest.json is too large; at most {MAX_MANIFEST_BYTES} bytes are read",
        "manifest_too_large",
    )


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _files(
    listed: Any, workload: str, limits: Upload | Imports
) -> tuple[tuple[UploadedFile, ...], tuple[str, ...]]:
    """The files of a manifest, and the names of those that are left out."""
    if not isinstance(listed, list) or not listed:
        raise RefusedUploadError(
            "manifest.json: files must be a list with at least one file", "manifest_no_files"
        )
    files: list[UploadedFile] = []
    left_out: list[str] = []
    for number, entry in enumerate(listed):
        where = f"manifest.json: files[{number}]"
        if not isinstance(entry, dict) or set(entry) != {"name", "bytes", "sha256"}:
            raise RefusedUploadError(
                f"{where} must have exactly name, bytes and sha256", "manifest_file_fields"
            )
        if _nobody_meant(entry["name"]):
            left_out.append(_shown(entry["name"]))
            continue
        try:
            name = ids.file_name(entry["name"])
        except ids.InvalidIdError as error:
            raise RefusedUploadError(
                f"{where}.name cannot be used; {error}", "file_name_unusable"
            ) from error
        if not name.lower().endswith(tuple(f".{kind}" for kind in limits.file_types)):
            raise RefusedUploadError(
                f"{_shown(name)} is not of a type that {workload} takes. Upload files of these "
                f"types: {', '.join(limits.file_types)}.",
                "file_type_not_taken",
            )
        size, digest = entry["bytes"], entry["sha256"]
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise RefusedUploadError(f"{where}.bytes must be a whole number", "manifest_file_bytes")
        if (
            not isinstance(digest, str)
            or len(digest) != 64
            or set(digest.lower()) - set("0123456789abcdef")
        ):
            raise RefusedUploadError(
                f"{where}.sha256 must be 64 hexadecimal digits", "manifest_file_sha256"
            )
        files.append(UploadedFile(name, size, digest.lower()))
    if not files:
        raise RefusedUploadError(
            "manifest.json: files names none but files that systems leave behind, such as "
            ".DS_Store; "
            "upload at least one with data",
            "manifest_no_files",
        )
    if len(files) > limits.max_files:
        raise RefusedUploadError(
            f"The upload has {len(files)} files; {workload} takes at most {limits.max_files}. "
            "Upload fewer files.",
            "too_many_files",
        )
    if len({unicodedata.normalize("NFC", file.name) for file in files}) != len(files):
        raise RefusedUploadError(
            "The upload names one file twice. Name each file once.", "file_twice"
        )
    if sum(file.size for file in files) > limits.max_bytes:
        raise RefusedUploadError(
            f"The files have too many bytes together; {workload} takes at most "
            f"{limits.max_megabytes:g} MB. Upload fewer or smaller files.",
            "upload_too_large",
        )
    return tuple(files), tuple(left_out[:MAX_LEFT_OUT])


def _shown(name: str) -> str:
    """The name of a file, fit to be shown."""
    return "".join(
        letter if letter.isprintable() else "?" for letter in name[:MAX_LEFT_OUT_CHARACTERS]
    )


def _nobody_meant(name: Any) -> bool:
    """Whether a name is that of a file which systems and programs leave beside people's own."""
    if not isinstance(name, str):
        return False
    return name.lower() in LEFT_BEHIND or name.startswith(LEFT_BEHIND_BEGINNINGS)


def _parameters(
    given: Any, declared: Mapping[str, Parameter], *, alone: bool
) -> dict[str, str | int | float | bool]:
    """The parameters of a manifest. One that stands ``alone`` has defaults, and all that are
    required; one that adds to the tenant's data leaves what it does not say to these."""
    if not isinstance(given, dict):
        raise RefusedUploadError(
            "manifest.json: parameters must be an object", "parameters_not_object"
        )
    unknown = set(given) - set(declared)
    if unknown:
        raise RefusedUploadError(
            f"manifest.json: parameters.{sorted(unknown)[0][:80]} is not known; known are: "
            f"{', '.join(declared) or 'none'}",
            "parameter_unknown",
        )
    values: dict[str, str | int | float | bool] = {}
    for name, parameter in declared.items():
        value = given.get(name, parameter.default if alone else None)
        if value is None:
            if parameter.required and alone:
                raise RefusedUploadError(
                    f"manifest.json: parameters.{name} is missing: {parameter.description}",
                    "parameter_missing",
                )
            continue
        if not parameter.takes(value):
            raise RefusedUploadError(
                f"manifest.json: parameters.{name} must be a {parameter.type}"
                + (
                    f" of at most {parameter.max_characters} characters"
                    if parameter.type == "string"
                    else ""
                ),
                "parameter_type",
            )
        values[name] = value
    return values


def read_manifest(deployment: Deployment, key: str, workloads: Mapping[str, Workload]) -> Manifest:
    """Fetch and check the manifest under ``key``.

    Raises:
        RefusedUploadError, ids.InvalidIdError, objects.ObjectMissingError
    """
    try:
        found = objects.read_object(
            deployment.s3, deployment.uploads_bucket, key, MAX_MANIFEST_BYTES
        )
    except objects.ObjectTooLargeError as error:
        raise _too_large() from error
    return replace(
        parse_manifest(found.content, key, workloads),
        uploaded=found.written,
        traceparent=continued(found.metadata.get(_TRACEPARENT)),
    )


def fetch_files(deployment: Deployment, manifest: Manifest, folder: Path) -> list[Path]:
    """Bring an upload's files into ``folder``, held to the sizes and digests the manifest declares.

    Raises:
        RefusedUploadError: a file is missing, or differs from the manifest.
    """
    paths = []
    for file in manifest.files:
        key = s3_keys.upload_file(manifest.workload, manifest.tenant, manifest.upload, file.name)
        try:
            content = objects.read_bytes(deployment.s3, deployment.uploads_bucket, key, file.size)
        except objects.ObjectMissingError as error:
            raise RefusedUploadError(
                f"{file.name} is named by the manifest but was not uploaded; upload it and then "
                f"the manifest",
                "file_not_uploaded",
            ) from error
        except objects.ObjectTooLargeError as error:
            raise RefusedUploadError(
                f"{file.name} is larger than the {file.size} bytes its manifest declares; upload "
                f"again",
                "file_size_differs",
            ) from error
        if len(content) != file.size or objects.sha256(content) != file.sha256:
            raise RefusedUploadError(
                f"{file.name} is not the file its manifest declares (size or sha256 differ); "
                f"upload again",
                "file_digest_differs",
            )
        path = folder / file.name
        path.write_bytes(content)
        paths.append(path)
    return paths


def put_upload(
    deployment: Deployment,
    workload: ids.WorkloadName,
    tenant: ids.ModelId,
    upload: ids.UploadId,
    files: Mapping[str, bytes],
    parameters: Mapping[str, str | int | float | bool] | None = None,
    purpose: Purpose = "training",
) -> str:
    """Write an upload as the product's app does: the files, then the manifest. Returns the
    manifest's key.

    The upload is a part of the caller's trace, or begins one.
    """
    s3, bucket, listed = deployment.s3, deployment.uploads_bucket, []
    model = ids.name_of(tenant)
    key = s3_keys.upload_manifest(workload, tenant, upload)
    with span("upload", workload=workload, tenant=tenant) as traceparent:
        for name, content in files.items():
            checked = ids.file_name(name)
            file_key = s3_keys.upload_file(workload, tenant, upload, checked)
            objects.write_bytes(s3, bucket, file_key, content)
            digest = objects.sha256(content)
            listed.append({"name": checked, "bytes": len(content), "sha256": digest})
        manifest = {
            "format": 1,
            "workload": workload,
            "tenant": ids.tenant_of(tenant),
            # An earlier release refuses the field, rather than take it for the default model.
            **({} if model == ids.DEFAULT_MODEL else {"model": model}),
            "files": listed,
            "parameters": dict(parameters or {}),
            # An earlier release refuses the field, rather than train on a model's archive.
            **({} if purpose == "training" else {"purpose": purpose}),
        }
        # Metadata, not a field: an intake of an earlier release would refuse an unknown field.
        objects.write_json(s3, bucket, key, manifest, {_TRACEPARENT: traceparent})
    return key


def manifest_keys_in_event(body: str, bucket: str) -> Iterator[str]:
    """The manifest keys in an S3 event notification (keys arrive URL-encoded).

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html

    Raises:
        ValueError: the message is not an S3 event.
    """
    try:
        event = json.loads(body)
    except RecursionError as error:
        raise ValueError("not an S3 event: nested too deeply") from error
    if not isinstance(event, dict):
        # The message is wrong, not the type of an argument.
        raise ValueError("not an S3 event: not an object")  # noqa: TRY004
    if event.get("Event") == "s3:TestEvent":
        return
    records: Sequence[Any] = event.get("Records", ())
    if not isinstance(records, list) or not records:
        raise ValueError("not an S3 event: no Records")
    for record in records:
        try:
            described = record["s3"]
            if described["bucket"]["name"] == bucket and str(record["eventName"]).startswith(
                "ObjectCreated:"
            ):
                yield unquote_plus(described["object"]["key"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not an S3 event: a record lacks or malforms {error}") from error
