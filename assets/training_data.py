"""``training_data``: a tenant's upload, checked and prepared by its workload's own preparation code, versioned."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from resources import keys, storage, uploads
from workloads.schema import Workload

if TYPE_CHECKING:
    from resources.deployment import Deployment
    from resources.request_queue import Request


class Prepared(Protocol):
    """What a preparation returns."""

    rows: int
    repairs: Mapping[str, int]
    facts: Mapping[str, Any]
    fingerprint: str


class Preparation(Protocol):
    """A module a workload names as its ``preparation``: the checks that training and inference share."""

    RefusedData: type[Exception]

    def prepare(self, files: Sequence[Path], destination: Path, parameters: Mapping[str, Any]) -> Prepared:
        """Check ``files`` and write the prepared ones, flat, into ``destination``. Raises ``RefusedData``."""
        ...


@dataclass(frozen=True)
class TrainingData:
    """Prepared training data, as it lies in S3. ``rows`` counts what the model learns from; ``facts`` are for people."""

    version: keys.Version
    files: tuple[keys.FileName, ...]
    rows: int
    fingerprint: str
    repairs: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """As it is kept in the request's row."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainingData:
        """From the request's row."""
        document = json.loads(text)
        return cls(**{**document, "files": tuple(keys.file_name(name) for name in document["files"])})


def preparation_of(workload: Workload) -> Preparation:
    """The workload's preparation module, imported when it is first needed (it may import pandas)."""
    return cast("Preparation", importlib.import_module(workload.preparation))


def make_training_data(deployment: Deployment, workload: Workload, request: Request) -> TrainingData:
    """Fetch a request's upload, check and prepare it, and put the result under the tenant's training data.

    Args:
        deployment: buckets and clients.
        workload: its limits and its preparation.
        request: whose upload; its version names the result, so that making it again replaces it with the same.

    Raises:
        uploads.RefusedUpload: the data cannot become a model; the message tells the tenant's owner why and what to do.
    """
    preparation = preparation_of(workload)
    try:
        manifest = uploads.read_manifest(deployment, request.manifest_key, {workload.name: workload})
    except storage.ObjectMissing as error:
        raise uploads.RefusedUpload("the upload's manifest.json is not there any more; upload again") from error
    if request.version is None:
        raise uploads.RefusedUpload("this request was refused when it came in; upload again")
    with tempfile.TemporaryDirectory(prefix="tenantry-") as scratch:
        raw, prepared_folder = Path(scratch, "raw"), Path(scratch, "prepared")
        raw.mkdir()
        prepared_folder.mkdir()
        files = uploads.fetch_files(deployment, manifest, raw)
        try:
            prepared = preparation.prepare(files, prepared_folder, manifest.parameters)
        except preparation.RefusedData as error:
            raise uploads.RefusedUpload(str(error), getattr(error, "code", "data_unusable")) from error
        names = tuple(keys.file_name(path.name) for path in sorted(prepared_folder.iterdir()))
        for name in names:
            key = keys.training_data_file(request.workload, request.tenant, request.version, name)
            storage.write_bytes(deployment.s3, deployment.data_bucket, key, (prepared_folder / name).read_bytes())
    return TrainingData(
        version=request.version,
        files=names,
        rows=prepared.rows,
        fingerprint=prepared.fingerprint,
        repairs=dict(prepared.repairs),
        facts=dict(prepared.facts) | ({"left_out": list(manifest.left_out)} if manifest.left_out else {}),
        parameters=dict(manifest.parameters),
    )
