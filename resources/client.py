"""The tenant-facing client: what the product's own app calls for one tenant it has identified.

It uploads, asks the tenant's champion, and reads what was predicted. The tenant comes from the app's verified identity, once,
when the client is made; no call takes another.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Self

from resources import hosting, keys, storage, uploads
from resources.model_registry import Champion, ModelRegistry
from resources.request_queue import Request, RequestQueue
from workloads.schema import Workload

if TYPE_CHECKING:
    from types import TracebackType

    from resources.deployment import Deployment

_LOG = logging.getLogger(__name__)


class NoModelYet(LookupError):  # noqa: N818 - reads as the sentence it is: "no model yet"
    """The tenant has no champion for this workload; the message says how its last upload stands."""


@dataclass
class TenantClient:
    """One tenant's way to one workload. Use it in a ``with`` block: leaving waits for the archive to be written."""

    deployment: Deployment
    workload: Workload
    tenant: keys.TenantId
    _archivist: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False, repr=False)

    @property
    def _name(self) -> keys.WorkloadName:
        return keys.workload_name(self.workload.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archivist.shutdown(wait=True)

    def upload(
        self, files: Mapping[str, bytes], parameters: Mapping[str, str | int | float | bool] | None = None
    ) -> keys.UploadId:
        """Hand in files to make a model from. Returns the upload's id; the model is made by itself.

        Raises:
            keys.InvalidId: a file's name cannot be used.
        """
        upload = keys.upload_id(uuid.uuid4().hex)
        uploads.put_upload(self.deployment, self._name, self.tenant, upload, files, parameters)
        return upload

    def requests(self) -> list[Request]:
        """How the tenant's uploads stand, oldest first."""
        return RequestQueue(self.deployment).of_tenant(self._name, self.tenant)

    def champion(self) -> Champion:
        """The version the tenant is served by.

        Raises:
            NoModelYet: there is none; the message says what became of the last upload.
        """
        champion = ModelRegistry(self.deployment).champion(self.tenant, self._name)
        if champion is None:
            requests = self.requests()
            stands = f"its last upload is {requests[-1].status}" if requests else "nothing was uploaded"
            if requests and requests[-1].reason:
                stands += f": {requests[-1].reason}"
            raise NoModelYet(f"{self.tenant} has no {self.workload.name} model yet; {stands}")
        return champion

    def predict(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask the tenant's model; request and response are archived to S3 off the way of the answer.

        Raises:
            NoModelYet: there is no model.
            hosting.InvocationRefused: the model's container refused the request, with its reason.
            hosting.EndpointFailed: the endpoint is not in service.
        """
        champion = self.champion()
        began, at = time.perf_counter(), datetime.now(UTC)
        content = hosting.invoke(
            self.deployment, champion.endpoint, keys.target_model(self.tenant, champion.version), dict(request)
        )
        answer: dict[str, Any] = json.loads(content)
        record = {
            "format": 1,
            "at": at.isoformat(),
            "version": champion.version,
            "milliseconds": round((time.perf_counter() - began) * 1000, 3),
            "request": dict(request),
            "response": answer,
        }
        self._archivist.submit(self._archive, at, record).add_done_callback(_log_failure)
        return answer

    def _archive(self, at: datetime, record: Mapping[str, Any]) -> None:
        key = keys.archived_request(self._name, self.tenant, at, f"{at:%H%M%S}-{uuid.uuid4().hex[:12]}")
        storage.write_json(self.deployment.s3, self.deployment.data_bucket, key, record)

    def predictions(self, day: date) -> list[dict[str, Any]]:
        """The tenant's batch prediction of a day, one document per record.

        Raises:
            storage.ObjectMissing: there is none for that day.
        """
        content = storage.read_bytes(
            self.deployment.s3,
            self.deployment.data_bucket,
            keys.prediction(self._name, self.tenant, day),
            64 * 1024 * 1024,
        )
        return [json.loads(line) for line in content.splitlines() if line.strip()]


def _log_failure(done: Future[None]) -> None:
    if (error := done.exception()) is not None:
        _LOG.error("an answered request could not be archived: %s", error)
