"""Every S3 key, table key, SageMaker name and TargetModel, built from validated ids. Nothing else
formats one.

Ids become values of their own type when they enter (``tenant_id("acme")``); the builders below take
only those, so a string that nobody checked cannot become part of a key.

What a tenant's session may touch has the tenant directly after a fixed prefix: IAM's ``*`` spans
slashes, so a policy with a wildcard before the tenant would take any other part of a key for the
tenant (docs/decisions/0011-the-tenant-leads-its-keys.md).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NewType
from urllib.parse import unquote

from tenantry.errors import TenantryError

if TYPE_CHECKING:
    from tenantry.names.tiers import Machines

TenantId = NewType("TenantId", str)
WorkloadName = NewType("WorkloadName", str)
UploadId = NewType("UploadId", str)
FileName = NewType("FileName", str)
Version = NewType("Version", str)
PackId = NewType("PackId", str)
RequestId = NewType("RequestId", str)
QuestionId = NewType("QuestionId", str)

Tier = Literal["silo", "bridge", "pool"]

MANIFEST: Final = "manifest.json"
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_WORKLOAD: Final = re.compile(r"[a-z][a-z0-9]{0,19}")
_UPLOAD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VERSION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PACK: Final = re.compile(r"p-[a-z0-9-]{1,40}")
_REQUEST: Final = re.compile(r"[0-9a-f]{32}")
_QUESTION: Final = re.compile(r"[0-9a-f]{32}")
_ASYNC_INPUT_END: Final = ".input"


class InvalidIdError(TenantryError, ValueError):
    """A string that is not an id of its kind; the message says which and what is allowed."""


def _checked(kind: str, pattern: re.Pattern[str], text: object) -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        shown = repr(text)[:80]
        raise InvalidIdError(f"{shown} is not a {kind}; it must match {pattern.pattern}")
    return text


def tenant_id(text: object) -> TenantId:
    """A tenant's pseudonymous id. Raises ``InvalidIdError``."""
    return TenantId(_checked("tenant id", _TENANT, text))


def workload_name(text: object) -> WorkloadName:
    """A workload's name; letters and digits, so that it can stand in partition and job names.
    Raises ``InvalidIdError``."""
    return WorkloadName(_checked("workload name", _WORKLOAD, text))


def upload_id(text: object) -> UploadId:
    """The id an app gave an upload. Raises ``InvalidIdError``."""
    return UploadId(_checked("upload id", _UPLOAD, text))


MAX_FILE_NAME_BYTES: Final = 255
"""Longest file name in bytes of UTF-8, as file systems have it."""

_NEVER_IN_A_FILE_NAME: Final = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, halves of a pair, line and paragraph separators."""

_TURNS_TEXT_ROUND: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def file_name(text: object) -> FileName:
    """A file inside an upload, named as people name files: no folder, no leading dot, nothing that
    hides what it is.

    Raises ``InvalidIdError`` with a sentence that says what is wrong.
    """
    if not isinstance(text, str):
        raise InvalidIdError("a file name is text")
    if wrong := _wrong_with_file_name(text):
        raise InvalidIdError(f"a file name {wrong}")
    return FileName(text)


def _wrong_with_file_name(name: str) -> str | None:
    if not name:
        return "has at least one character"
    # A URL may be read once more on the way: what it would become then is held to the same.
    for said in (name, unquote(name)):
        if "/" in said or "\\" in said:
            return "names no folder: it has no slash or backslash"
        if said.startswith("."):
            return "does not begin with a dot"
        if any(unicodedata.category(character) in _NEVER_IN_A_FILE_NAME for character in said):
            return "has no control characters"
        if any(character in _TURNS_TEXT_ROUND for character in said):
            return "has no characters that change the direction of writing"
    if name != name.strip():
        return "does not begin or end with a blank"
    if len(name.encode()) > MAX_FILE_NAME_BYTES:
        return f"has at most {MAX_FILE_NAME_BYTES} bytes in UTF-8"
    if name == MANIFEST:
        return f"is not {MANIFEST}, which is the manifest itself"
    return None


def version_name(text: object) -> Version:
    """An artifact's version. Raises ``InvalidIdError``."""
    return Version(_checked("version", _VERSION, text))


def pack_id(text: object) -> PackId:
    """A pack's id. Raises ``InvalidIdError``."""
    return PackId(_checked("pack id", _PACK, text))


def request_id(text: object) -> RequestId:
    """A request's id. Raises ``InvalidIdError``."""
    return RequestId(_checked("request id", _REQUEST, text))


def question_id(text: object) -> QuestionId:
    """The id of what a tenant's model was asked. Raises ``InvalidIdError``."""
    return QuestionId(_checked("question id", _QUESTION, text))


# ---- ids that are derived ------------------------------------------------------------------------


def request_id_of(workload: WorkloadName, tenant: TenantId, content: str) -> RequestId:
    """The id of a request: the hash of tenant, workload and content, so that a repeated event is
    nothing new.

    Args:
        workload: whose model is asked for.
        tenant: for whom.
        content: digest of the upload's files and parameters.
    """
    return RequestId(hashlib.sha256(f"{workload}\0{tenant}\0{content}".encode()).hexdigest()[:32])


def version_of(request: RequestId | str, at: datetime) -> Version:
    """A new version's name: when it was asked for (UTC), and a digest that tells apart what was
    asked at once."""
    digest = hashlib.sha256(str(request).encode()).hexdigest()[:8]
    return Version(f"{moment_of(at)}-{digest}")


def moment_of(at: datetime) -> str:
    """A moment (UTC) to the second, as text that sorts by time, as it stands in a version's
    name."""
    return f"{at.astimezone(UTC):%Y%m%dt%H%M%S}"


def upload_moment(version: Version) -> str:
    """When the upload came that a version was made of (``moment_of``).

    Of two versions of one upload none is the older: their names differ in the digest alone.
    """
    return version.partition("-")[0]


def pack_id_of(members: list[str]) -> PackId:
    """The id of a pack: the hash of what is in it, so that the same pack gets the same training
    job."""
    digest = hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()[:16]
    return PackId(f"p-{digest}")


def question_id_of(
    workload: WorkloadName, tenant: TenantId, version: Version, content: str
) -> QuestionId:
    """The id of what a version of a tenant's model was asked: the same question has the same id,
    another tenant's never.

    Args:
        workload: whose model is asked.
        tenant: whose it is.
        version: which of its versions.
        content: the request in its canonical form, with all else that decides the answer.
    """
    said = f"{workload}\0{tenant}\0{version}\0{content}"
    return QuestionId(hashlib.sha256(said.encode()).hexdigest()[:32])


# ---- uploads bucket ------------------------------------------------------------------------------


UPLOADS_ROOT: Final = "uploads/"
"""Above all uploads of all tenants."""


def tenant_uploads_prefix(workload: WorkloadName, tenant: TenantId) -> str:
    """Above all that a tenant uploaded for a workload."""
    return f"{UPLOADS_ROOT}{tenant}/{workload}/"


def upload_prefix(workload: WorkloadName, tenant: TenantId, upload: UploadId) -> str:
    """Where an upload's files lie."""
    return f"{tenant_uploads_prefix(workload, tenant)}{upload}/"


def upload_file(workload: WorkloadName, tenant: TenantId, upload: UploadId, name: FileName) -> str:
    """One file of an upload."""
    return f"{upload_prefix(workload, tenant, upload)}{name}"


def upload_manifest(workload: WorkloadName, tenant: TenantId, upload: UploadId) -> str:
    """The manifest, written last."""
    return f"{upload_prefix(workload, tenant, upload)}{MANIFEST}"


def parse_manifest_key(key: str) -> tuple[WorkloadName, TenantId, UploadId]:
    """The ids in a manifest's key. Raises ``InvalidIdError`` when it is not one."""
    parts = key.split("/")
    if len(parts) != 5 or f"{parts[0]}/" != UPLOADS_ROOT or parts[4] != MANIFEST:
        raise InvalidIdError(
            f"{key[:200]!r} is not {UPLOADS_ROOT}{{tenant}}/{{workload}}/{{upload}}/{MANIFEST}"
        )
    return workload_name(parts[2]), tenant_id(parts[1]), upload_id(parts[3])


TENANT_ROOTS: Final = ("predictions/", "archive/", "cache/", "async/")
"""Of the data bucket, above ``{tenant}/{workload}/``; of the uploads bucket it is
``UPLOADS_ROOT``."""

WORKLOAD_ROOTS: Final = (
    "training-data/",
    "jobs/",
    "checkpoints/",
    "artifacts/",
    "batches/",
    "async-failures/",
)
"""Of the data bucket, above ``{workload}/``."""

# ---- data bucket ---------------------------------------------------------------------------------


def training_data_folder(tenant: TenantId, version: Version) -> str:
    """A tenant's folder below the workload's training data; also its folder in the job's
    channel."""
    return f"{tenant}/{version}"


def training_data_root(workload: WorkloadName) -> str:
    """Above all training data of a workload."""
    return f"training-data/{workload}/"


def training_data_file(
    workload: WorkloadName, tenant: TenantId, version: Version, name: FileName
) -> str:
    """One prepared file."""
    return f"{training_data_root(workload)}{training_data_folder(tenant, version)}/{name}"


def job_file(workload: WorkloadName, pack: PackId, name: FileName) -> str:
    """An input document of a packed training job."""
    return f"jobs/{workload}/{pack}/{name}"


def job_output_prefix(workload: WorkloadName, pack: PackId) -> str:
    """Where SageMaker puts the job's own ``model.tar.gz``."""
    return f"jobs/{workload}/{pack}/output"


def checkpoint_prefix(workload: WorkloadName, pack: PackId) -> str:
    """What a packed job's checkpoint folder is synced to."""
    return f"checkpoints/{workload}/{pack}"


def checkpoint_archive(
    workload: WorkloadName, pack: PackId, tenant: TenantId, version: Version
) -> str:
    """The archive a task of the job left."""
    return f"{checkpoint_prefix(workload, pack)}/{tenant}/{version}.tar.gz"


def artifact(workload: WorkloadName, tenant: TenantId, version: Version) -> str:
    """A version's archive for good: nothing expires here, whatever becomes of jobs and
    endpoints."""
    return f"artifacts/{workload}/{tenant}/{version}.tar.gz"


def outcome_beside(archive: str) -> str:
    """The outcome that the task which left an archive left with it."""
    return f"{archive.removesuffix('.tar.gz')}.json"


def files_beside(archive: str) -> str:
    """Where the other files lie that a task left with its archive."""
    return f"{archive.removesuffix('.tar.gz')}/"


def target_model(tenant: TenantId, version: Version) -> str:
    """What ``InvokeEndpoint`` takes as ``TargetModel``; the tenant leads, so that IAM can hold to
    ``{tenant}/*``."""
    return f"{tenant}/{version}.tar.gz"


def endpoint_models_prefix(endpoint: str) -> str:
    """The prefix a multi-model endpoint serves."""
    return f"endpoints/{endpoint}/models/"


def endpoint_model(endpoint: str, tenant: TenantId, version: Version) -> str:
    """An archive under the endpoint's prefix."""
    return f"{endpoint_models_prefix(endpoint)}{target_model(tenant, version)}"


def batch_prefix(workload: WorkloadName, day: date, batch: str) -> str:
    """Everything one batch transform reads and writes."""
    return f"batches/{workload}/{day.isoformat()}/{version_name(batch)}/"


def batch_input(workload: WorkloadName, day: date, batch: str, tenant: TenantId) -> str:
    """A tenant's records in a batch."""
    return f"{batch_prefix(workload, day, batch)}input/{tenant}.jsonl"


def batch_model(
    workload: WorkloadName, day: date, batch: str, tenant: TenantId, version: Version
) -> str:
    """A tenant's archive in a batch."""
    return f"{batch_prefix(workload, day, batch)}models/{target_model(tenant, version)}"


def batch_output(workload: WorkloadName, day: date, batch: str, tenant: TenantId) -> str:
    """What the transform job answered for a tenant: the input's name and ``.out``, as SageMaker has
    it."""
    return f"{batch_prefix(workload, day, batch)}output/{tenant}.jsonl.out"


def predictions_prefix(workload: WorkloadName, tenant: TenantId) -> str:
    """Above a tenant's batch predictions; by name they are in the order of their days."""
    return f"predictions/{tenant}/{workload}/"


def prediction(workload: WorkloadName, tenant: TenantId, day: date) -> str:
    """A tenant's batch prediction of a day."""
    return f"{predictions_prefix(workload, tenant)}{day.isoformat()}.jsonl"


def archived_request(workload: WorkloadName, tenant: TenantId, at: datetime, name: str) -> str:
    """An answered request, with its response."""
    return f"archive/{tenant}/{workload}/{at.astimezone(UTC):%Y-%m-%d}/{version_name(name)}.json"


def cached_answer(
    workload: WorkloadName, tenant: TenantId, version: Version, question: QuestionId
) -> str:
    """What a version of a tenant's model answered."""
    return f"cache/{tenant}/{workload}/{version}_{question}"


ASYNC_ROOT: Final = "async"
"""Above what all tenants ask asynchronously: the ``S3OutputPath`` of a shared tier's endpoint."""


def async_extension(workload: WorkloadName, tenant: TenantId) -> str:
    """A shared tier's ``S3OutputPathExtension``: what leads from ``ASYNC_ROOT`` to a tenant's
    answers."""
    return f"{tenant}/{workload}"


def async_tenant_prefix(workload: WorkloadName, tenant: TenantId) -> str:
    """Above what a tenant asks asynchronously: the ``S3OutputPath`` and ``S3FailurePath`` of a silo
    tenant's endpoint."""
    return f"{ASYNC_ROOT}/{async_extension(workload, tenant)}"


def async_failures_prefix(workload: WorkloadName) -> str:
    """Where a shared tier's endpoint says why it could not answer: its ``S3FailurePath``. No
    tenant's session reaches it."""
    return f"async-failures/{workload}"


def async_input(workload: WorkloadName, tenant: TenantId, question: QuestionId) -> str:
    """What a tenant asks asynchronously."""
    return f"{async_tenant_prefix(workload, tenant)}/{question}{_ASYNC_INPUT_END}"


def parse_async_input(key: str) -> tuple[WorkloadName, TenantId, QuestionId]:
    """The ids in the key of an asynchronous question. Raises ``InvalidIdError`` when it is not
    one."""
    parts = key.split("/")
    if len(parts) != 4 or parts[0] != ASYNC_ROOT or not parts[3].endswith(_ASYNC_INPUT_END):
        raise InvalidIdError(f"{key[:200]!r} is not the key of an asynchronous question")
    question = parts[3].removesuffix(_ASYNC_INPUT_END)
    return workload_name(parts[2]), tenant_id(parts[1]), question_id(question)


def async_submitted(workload: WorkloadName, tenant: TenantId, question: QuestionId) -> str:
    """That the question was submitted, when, and where the answer will lie."""
    return f"{async_tenant_prefix(workload, tenant)}/{question}.submitted"


def async_output(workload: WorkloadName, tenant: TenantId, question: QuestionId) -> str:
    """The answer; its last part is the request's ``Filename``."""
    return f"{async_tenant_prefix(workload, tenant)}/{question}"


def async_failure(
    workload: WorkloadName, tenant: TenantId, question: QuestionId, attempt: int
) -> str:
    """Why an attempt at the question failed, copied to the tenant from where SageMaker put it."""
    return f"{async_tenant_prefix(workload, tenant)}/{question}.failure-{attempt:d}"


def inference_id(question: QuestionId, attempt: int) -> str:
    """SageMaker's ``InferenceId`` of an attempt at a question."""
    return f"{question}-{attempt:d}"


def parse_inference_id(text: str) -> tuple[QuestionId, int]:
    """The question and the attempt in an ``InferenceId``. Raises ``InvalidIdError`` when it is not
    one."""
    question, _, attempt = text.partition("-")
    if not (attempt.isascii() and attempt.isdigit() and len(attempt) <= 9):
        raise InvalidIdError(f"{text[:80]!r} is not the id of an attempt at a question")
    return question_id(question), int(attempt)


# ---- tables --------------------------------------------------------------------------------------


def table_partition(tenant: TenantId, workload: WorkloadName) -> str:
    """Partition key of both tables; the tenant leads, so that ``dynamodb:LeadingKeys`` can hold to
    it."""
    return f"{tenant}#{workload}"


def history_partition(tenant: TenantId, workload: WorkloadName) -> str:
    """Partition key, in the requests table, of what no longer fits into the histories of a tenant's
    requests."""
    return f"{table_partition(tenant, workload)}#history"


def history_item(request: RequestId, since: str) -> str:
    """Sort key of a request's changes from a moment on; without a moment, what all of them begin
    with."""
    return f"{request}#{since}"


def upload_counts_partition(tenant: TenantId, workload: WorkloadName) -> str:
    """Partition key, in the requests table, of how many uploads a tenant handed in on a day."""
    return f"{table_partition(tenant, workload)}#uploads"


ACCOUNT_PARTITION: Final = "_account"
"""Partition key, in the requests table, of what all workloads share; no tenant's id begins with
``_``."""


def workload_partition(workload: WorkloadName) -> str:
    """Partition key, in the requests table, of what belongs to a workload rather than to a
    tenant."""
    return f"_workload#{workload}"


def version_item(version: Version) -> str:
    """Sort key of a version in the models table."""
    return f"version#{version}"


def queue_key(workload: WorkloadName, status: str) -> str:
    """Partition key of the requests table's index of open requests."""
    return f"{workload}#{status}"


# ---- SageMaker names (63 characters at most) -----------------------------------------------------

_MAX_NAME: Final = 63
_DIGEST: Final = 10


def _fitted(name: str) -> str:
    """The name; where SageMaker would not take it, too long or ending in a hyphen, its end gives
    way to a digest of all of it."""
    if len(name) <= _MAX_NAME and not name.endswith("-"):
        return name
    return (
        f"{name[: _MAX_NAME - _DIGEST - 1]}-{hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]}"
    )


def training_job_name(prefix: str, workload: WorkloadName, pack: PackId, number: int = 1) -> str:
    """The name of a pack's training job; ``number`` counts its jobs, when one found no machine and
    another took its place."""
    return _fitted(f"{prefix}-{workload}-{pack}" + (f"-{number}" if number > 1 else ""))


def training_job_prefix(prefix: str) -> str:
    """What the names of a deployment's training jobs begin with."""
    return f"{prefix}-"


def transform_job_name(prefix: str, workload: WorkloadName, day: date, batch: str) -> str:
    """The name of a batch's transform job."""
    return _fitted(f"{prefix}-{workload}-{day:%Y%m%d}-{version_name(batch)}")


def endpoint_name(prefix: str, workload: WorkloadName, machines: Machines) -> str:
    """The endpoint on a silo tenant's own machines, or on those of a shared tier."""
    if machines.tier == "silo":
        digest = hashlib.sha256(machines.tenant.encode()).hexdigest()[:16]
        return _fitted(f"{prefix}-{workload}-silo-{digest}")
    return _fitted(f"{prefix}-{workload}-{machines.tier}")


def async_endpoint_name(prefix: str, workload: WorkloadName, machines: Machines) -> str:
    """The endpoint there that answers asynchronously."""
    return _fitted(f"{endpoint_name(prefix, workload, machines)}-async")


def name_of_content(endpoint: str, content: Mapping[str, Any]) -> str:
    """The name of an endpoint's model or configuration: other content, another name."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_DIGEST]
    return f"{endpoint[: _MAX_NAME - _DIGEST - 1]}-{digest}"
