"""``training_data``: a tenant's upload, checked and prepared by its workload's own preparation code
in a process apart, versioned."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.refused_data import RefusedDataError
from tenantry.aws import objects
from tenantry.names import ids, s3_keys
from tenantry.uploads import manifests
from tenantry.uploads.bounded_calls import (
    BoundedCalls,
    CallFailedError,
    Limits,
    bounded_calls,
    read_regular_file,
)
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment
    from tenantry.requests.rows import Request


_FILE_BYTES: Final = 64 * 1024 * 1024  # of a prepared file; or an upload's, if that is more
_MAX_FILES: Final = 1000  # that a preparation may write
_MAX_FACTS: Final = 64 * 1024  # characters; they are kept in the request's row
_MAX_NAME: Final = 200  # characters of a repair's name


@dataclass(frozen=True)
class TrainingData:
    """Prepared training data, as it lies in S3. ``rows`` counts the rows or files that the model
    learns from; ``facts`` are for people."""

    version: ids.Version
    files: tuple[ids.FileName, ...]
    rows: int
    fingerprint: str
    repairs: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Its form in the request's row."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainingData:
        """From the request's row."""
        document = json.loads(text)
        return cls(
            **{**document, "files": tuple(ids.file_name(name) for name in document["files"])}
        )


@dataclass(frozen=True)
class _Prepared:
    """The result of a preparation, checked to be of the right types."""

    rows: int
    repairs: Mapping[str, int]
    facts: Mapping[str, Any]
    fingerprint: str

    @classmethod
    def parse(cls, said: Any) -> _Prepared:
        """From the result of the call. Raises ``CallFailedError``."""
        match said:
            case {
                "rows": int(rows),
                "repairs": dict(repairs),
                "facts": dict(facts),
                "fingerprint": str(fingerprint),
            }:
                counted = all(
                    len(name) <= _MAX_NAME and type(count) is int for name, count in repairs.items()
                )
                small = (
                    len(fingerprint) <= _MAX_NAME
                    and len(json.dumps(facts)) + len(json.dumps(repairs)) <= _MAX_FACTS
                )
                if type(rows) is int and rows >= 0 and counted and small:
                    return cls(rows, repairs, facts, fingerprint)
        raise CallFailedError(
            "the preparation returned something else than rows, repairs, facts and fingerprint"
        )


def call_limits(workload: Workload) -> Limits:
    """The limits of one call into a workload's code (``upload.preparation``)."""
    settings = workload.upload.preparation
    return Limits(
        memory_bytes=settings.memory_megabytes << 20,
        cpu_seconds=settings.cpu_seconds,
        seconds=settings.seconds,
        file_bytes=max(workload.upload.max_bytes, _FILE_BYTES),
    )


def calls_of(workload: Workload) -> BoundedCalls:
    """The calls into the modules of a workload that read its tenants' files."""
    return bounded_calls(
        workload.preparation, *([workload.drift.module] if workload.drift is not None else [])
    )


def manifest_of(deployment: Deployment, workload: Workload, request: Request) -> manifests.Manifest:
    """The manifest of the upload that a request is made from.

    Raises:
        manifests.RefusedUploadError: it is there no more, or cannot be used any more.
    """
    try:
        return manifests.read_manifest(deployment, request.manifest_key, {workload.name: workload})
    except objects.ObjectMissingError as error:
        raise manifests.RefusedUploadError(
            "the upload's manifest.json is not there any more; upload again", "manifest_gone"
        ) from error


def make_training_data(
    deployment: Deployment, workload: Workload, request: Request
) -> TrainingData:
    """Fetch a request's upload, check and prepare it, and put the result under the tenant's
    training data.

    A process of its own reads the files, within the limits of ``upload.preparation``.

    Args:
        deployment: buckets and clients.
        workload: its limits and its preparation.
        request: its upload is prepared; its version names the result, so that a repeated call
            replaces it with the same.

    Raises:
        manifests.RefusedUploadError: the data cannot become a model; the message gives the tenant's
            owner the reason and the cure.
        CallFailedError: the preparation failed, and the data are not the reason.
    """
    return _prepared(deployment, workload, request, None)


def extend_data(
    deployment: Deployment, workload: Workload, request: Request, known: TrainingData
) -> TrainingData:
    """Append a request's upload to data that were prepared before, as ``make_training_data`` does
    for a whole history. The result lies beside the known data, which stay.

    Raises:
        manifests.RefusedUploadError: the upload cannot be appended.
        CallFailedError: the preparation failed, and the data are not the reason.
        objects.ObjectMissingError: a file of the known data is gone.
    """
    return _prepared(deployment, workload, request, known)


def _prepared(
    deployment: Deployment, workload: Workload, request: Request, known: TrainingData | None
) -> TrainingData:
    manifest = manifest_of(deployment, workload, request)
    if request.version is None:
        raise manifests.RefusedUploadError(
            "this request was refused when it came in; upload again", "refused_before"
        )
    limits = call_limits(workload)
    parameters = {**({} if known is None else known.parameters), **manifest.parameters}
    with tempfile.TemporaryDirectory(prefix="tenantry-") as scratch:
        raw, before, folder = (Path(scratch, name) for name in ("raw", "before", "prepared"))
        for made in (raw, before, folder):
            made.mkdir()
        paths: dict[str, Any] = {
            "files": manifests.fetch_files(deployment, manifest, raw),
            "destination": folder,
        }
        if known is not None:
            _fetch(deployment, request, known, before, limits.file_bytes)
            paths["prepared"] = before
        try:
            said = calls_of(workload).call(
                workload.preparation,
                "prepare" if known is None else "extend",
                paths=paths,
                values={"parameters": parameters},
                limits=limits,
                alone=request.tier == "silo",
            )
        except RefusedDataError as error:
            raise manifests.RefusedUploadError(str(error), error.code) from error
        prepared = _Prepared.parse(said)
        names = tuple(ids.file_name(path.name) for path in sorted(folder.iterdir()))
        if len(names) > _MAX_FILES:
            raise CallFailedError(
                f"the preparation wrote {len(names)} files; at most {_MAX_FILES} are taken"
            )
        for name in names:
            key = s3_keys.training_data_file(
                request.workload, request.tenant, request.version, name
            )
            content = read_regular_file(folder / name, limits.file_bytes)
            objects.write_bytes(deployment.s3, deployment.data_bucket, key, content)
    return TrainingData(
        version=request.version,
        files=names,
        rows=prepared.rows,
        fingerprint=prepared.fingerprint,
        repairs=dict(prepared.repairs),
        facts=dict(prepared.facts)
        | ({"left_out": list(manifest.left_out)} if manifest.left_out else {}),
        parameters=parameters,
    )


def _fetch(
    deployment: Deployment, request: Request, data: TrainingData, folder: Path, max_bytes: int
) -> None:
    """Bring prepared files into a folder."""
    for name in data.files:
        key = s3_keys.training_data_file(request.workload, request.tenant, data.version, name)
        content = objects.read_bytes(deployment.s3, deployment.data_bucket, key, max_bytes)
        (folder / name).write_bytes(content)
