"""Ids: strings that were checked where they entered, and values of their own type from then on.

The builders of keys and names beside this module take only those, so an unchecked string cannot
become part of a key.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from datetime import UTC, datetime
from typing import Final, NewType
from urllib.parse import unquote

from contracts import patterns
from tenantry.errors import TenantryError

ModelId = NewType("ModelId", str)
"""Which model of a workload: ``acme`` for a tenant's default one, ``acme.winter`` for the one
named ``winter``. It is also the model's partition key in Dagster."""
TenantId = NewType("TenantId", ModelId)
"""A tenant. As a ``ModelId`` it means the tenant's default model."""
ModelName = NewType("ModelName", str)
WorkloadName = NewType("WorkloadName", str)
BatchName = NewType("BatchName", str)
UploadId = NewType("UploadId", str)
FileName = NewType("FileName", str)
Version = NewType("Version", str)
PackId = NewType("PackId", str)
RequestId = NewType("RequestId", str)
QuestionId = NewType("QuestionId", str)

MANIFEST: Final = "manifest.json"
_WORKLOAD: Final = re.compile(r"[a-z][a-z0-9]{0,19}")
_TENANT_IN_WORDS: Final = "1 to 63 small letters, digits and hyphens, the first no hyphen"
_WORKLOAD_IN_WORDS: Final = "1 to 20 small letters and digits, the first a letter"
SHARED: Final = ModelId("shared")
"""Stands for nobody: the id of a model of all tenants' data. No tenant has it."""
DEFAULT_MODEL: Final = ModelName("default")
"""The name of the model that is meant where none is named."""
_MODEL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MODEL_NAME_IN_WORDS: Final = "1 to 32 small letters, digits and hyphens, the first no hyphen"
_BATCH: Final = re.compile(r"(?!first\Z)[a-z][a-z0-9_]{0,19}")  # `first`: the first results
_UPLOAD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PACK: Final = re.compile(r"p-[a-z0-9-]{1,40}")
_REQUEST: Final = re.compile(r"[0-9a-f]{32}")
_QUESTION: Final = re.compile(r"[0-9a-f]{32}")


class InvalidIdError(TenantryError, ValueError):
    """A string is not an id of its kind; the message names the kind and the rule."""


def _checked(kind: str, pattern: re.Pattern[str], text: object, words: str = "") -> str:
    if not isinstance(text, str) or not pattern.fullmatch(text):
        shown = repr(text)[:80]
        said = f": {words}" if words else ""
        raise InvalidIdError(f"{shown} is not a {kind}; it must match {pattern.pattern}{said}")
    return text


def tenant_id(text: object) -> TenantId:
    """A tenant's pseudonymous id. Raises ``InvalidIdError``."""
    if text == SHARED:
        raise InvalidIdError(f"{text!r} is no tenant's id: it stands for the model of all tenants")
    return TenantId(ModelId(_checked("tenant id", patterns.TENANT, text, _TENANT_IN_WORDS)))


def model_name(text: object) -> ModelName:
    """The name of one of a tenant's models of a workload. Raises ``InvalidIdError``."""
    return ModelName(_checked("model name", _MODEL_NAME, text, _MODEL_NAME_IN_WORDS))


def model_id(text: object) -> ModelId:
    """Which model of a workload: ``{tenant}``, ``{tenant}.{model name}``, or ``shared``. Raises
    ``InvalidIdError``."""
    if not isinstance(text, str):
        raise InvalidIdError("a model's id is text: a tenant's, and a model's name after a dot")
    if text == SHARED:
        return SHARED
    tenant, dot, name = text.partition(".")
    return model_of(tenant_id(tenant), model_name(name) if dot else DEFAULT_MODEL)


def model_of(tenant: TenantId, name: ModelName) -> ModelId:
    """A tenant's model of that name."""
    return tenant if name == DEFAULT_MODEL else ModelId(f"{tenant}.{name}")


def tenant_of(model: ModelId) -> TenantId:
    """The tenant whose model it is."""
    return TenantId(ModelId(model.partition(".")[0]))


def name_of(model: ModelId) -> ModelName:
    """The name of a model among its tenant's."""
    return ModelName(model.partition(".")[2] or DEFAULT_MODEL)


def name_in_keys(workload: WorkloadName, model: ModelId) -> str:
    """What stands behind the tenant in the keys of one of its models: the workload, and the model's
    name unless it is the default one's. No workload's name has a dot."""
    name = name_of(model)
    return workload if name == DEFAULT_MODEL else f"{workload}.{name}"


def workload_name(text: object) -> WorkloadName:
    """A workload's name; letters and digits, so that it can stand in partition and job names.
    Raises ``InvalidIdError``."""
    return WorkloadName(_checked("workload name", _WORKLOAD, text, _WORKLOAD_IN_WORDS))


def batch_name(text: object) -> BatchName:
    """The name of one of a workload's batches. Raises ``InvalidIdError``."""
    return BatchName(_checked("batch name", _BATCH, text))


def upload_id(text: object) -> UploadId:
    """The id an app gave an upload. Raises ``InvalidIdError``."""
    return UploadId(_checked("upload id", _UPLOAD, text))


MAX_FILE_NAME_BYTES: Final = 255
"""Longest file name in bytes of UTF-8, as file systems have it."""

_NEVER_IN_A_FILE_NAME: Final = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, halves of a pair, line and paragraph separators."""

_TURNS_TEXT_ROUND: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def file_name(text: object) -> FileName:
    """The name of a file inside an upload, as people name files: no folder, no leading dot, no
    characters that disguise it.

    Raises ``InvalidIdError``; the message states the fault.
    """
    if not isinstance(text, str):
        raise InvalidIdError("a file name is text")
    if wrong := _wrong_with_file_name(text):
        raise InvalidIdError(f"a file name {wrong}")
    return FileName(text)


def _wrong_with_file_name(name: str) -> str | None:
    if not name:
        return "has at least one character"
    # A URL may be decoded once more on the way, so the decoded name has to meet the same rules.
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
    return Version(_checked("version", patterns.VERSION, text))


def pack_id(text: object) -> PackId:
    """A pack's id. Raises ``InvalidIdError``."""
    return PackId(_checked("pack id", _PACK, text))


def request_id(text: object) -> RequestId:
    """A request's id. Raises ``InvalidIdError``."""
    return RequestId(_checked("request id", _REQUEST, text))


def question_id(text: object) -> QuestionId:
    """The id of a question to a tenant's model. Raises ``InvalidIdError``."""
    return QuestionId(_checked("question id", _QUESTION, text))


def request_id_of(workload: WorkloadName, tenant: ModelId, content: str) -> RequestId:
    """The id of a request: the hash of workload, model and content, so that a repeated event gives
    the same id.

    Args:
        workload: the model's workload.
        tenant: the tenant it is for, and which of its models.
        content: digest of the upload's files and parameters.
    """
    return RequestId(hashlib.sha256(f"{workload}\0{tenant}\0{content}".encode()).hexdigest()[:32])


def version_of(request: RequestId | str, at: datetime) -> Version:
    """A new version's name: the given moment (UTC), and a digest that tells apart requests of the
    same moment."""
    digest = hashlib.sha256(str(request).encode()).hexdigest()[:8]
    return Version(f"{moment_of(at)}-{digest}")


def moment_of(at: datetime) -> str:
    """A moment (UTC) to the second, as text that sorts by time, as it stands in a version's
    name."""
    return f"{at.astimezone(UTC):%Y%m%dt%H%M%S}"


def upload_moment(version: Version) -> str:
    """The moment of the upload that a version was made from (``moment_of``).

    Two versions of one upload are equally old: their names differ in the digest alone.
    """
    return version.partition("-")[0]


def silo_digest(tenant: ModelId) -> str:
    """Stands for a silo tenant in the names of what is its own, whichever of its models is meant.
    All digests have one length, so that none begins with another, as ``acme-2`` does with
    ``acme``."""
    return hashlib.sha256(tenant_of(tenant).encode()).hexdigest()[:16]


def pack_id_of(members: list[str], alone: ModelId | None = None) -> PackId:
    """The id of a pack: the hash of its members, so that the same pack gets the same training job.

    The id of a silo tenant's pack leads with the tenant (``alone``): the tenant's execution role
    reaches the objects of such packs and of no others.
    """
    digest = hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()[:16]
    return PackId(f"p-{digest}" if alone is None else f"p-{silo_digest(alone)}-{digest}")


def batch_name_of(members: list[str], alone: ModelId | None = None) -> str:
    """The name of a batch, made in the same way: that of a silo tenant's leads with the tenant."""
    digest = hashlib.sha256("\n".join(members).encode()).hexdigest()[:12]
    return f"b-{digest}" if alone is None else f"b-{silo_digest(alone)}-{digest}"


def question_id_of(
    workload: WorkloadName, tenant: ModelId, version: Version, content: str
) -> QuestionId:
    """The id of a question to a version of a tenant's model. The same question has the same id;
    another tenant's never has.

    Args:
        workload: the model's workload.
        tenant: the model's tenant.
        version: which of its versions.
        content: the request in its canonical form, with all else that decides the answer.
    """
    said = f"{workload}\0{tenant}\0{version}\0{content}"
    return QuestionId(hashlib.sha256(said.encode()).hexdigest()[:32])
