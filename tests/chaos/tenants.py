"""The tenants' uploads: good data, several uploads, spoiled ones, and one flooding tenant; the seed
decides."""

from __future__ import annotations

import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Final, Literal

from containers.forecast.consumption.synthetic import generate, last_midnight
from tenantry.aws import objects
from tenantry.aws.deployment import Deployment
from tenantry.names import ids, s3_keys
from tenantry.uploads import manifests
from tenantry.workloads.schema import Workload

ENERGY: Final = ids.workload_name("energy")
_DAYS: Final = 35
_CUSTOMERS: Final = 12
_PARAMETERS: Final = {"timezone": "Europe/London", "country": "GB"}

Spoiled = Literal[
    "a word for a reading", "too few days", "a file that never came", "another file", "no JSON"
]
Event = Literal["kept", "lost", "repeated"]
_SPOILED: Final[Sequence[Spoiled]] = (
    "a word for a reading",
    "too few days",
    "a file that never came",
    "another file",
    "no JSON",
)
_REPEATED_SHARE: Final = 0.15
_SAME_AGAIN_SHARE: Final = 0.25
_SPOILED_SHARE: Final = 0.08
_LOST_EVENTS: Final = 0.12
_REPEATED_EVENTS: Final = 0.12
_MEDDLING_SECONDS: Final = 1.0  # after that, an event is left to the sensor


@dataclass(frozen=True)
class Upload:
    """One planned upload with ``hours`` of the customer's data; another number gives another
    content."""

    tenant: ids.TenantId
    upload: ids.UploadId
    customer: int
    hours: int
    spoiled: Spoiled | None
    event: Event

    @property
    def manifest_key(self) -> str:
        """Its manifest in the uploads bucket."""
        return s3_keys.upload_manifest(ENERGY, self.tenant, self.upload)


def planned(seed: int, tenants: int) -> list[Upload]:
    """All uploads in their order, with a tenant's own in the order of their names."""
    fate = Random(f"{seed}/uploads")
    slots: list[tuple[float, ids.TenantId, int, Spoiled | None]] = []
    for number in range(tenants):
        tenant = ids.tenant_id(f"chaos-{number:03d}")
        usual = fate.choice((2, 3)) if fate.random() < _REPEATED_SHARE else 1
        count = max(4, tenants // 8) if number == 0 else usual  # the first one floods
        spoiled_at = (
            fate.randrange(count) if fate.random() < _SPOILED_SHARE or number in {1, 2} else None
        )
        began = fate.random()
        for turn in range(count):
            spoiled = fate.choice(_SPOILED) if turn == spoiled_at else None
            slots.append(
                (
                    began + turn * (0.02 if number == 0 else fate.random() * 0.5),
                    tenant,
                    turn,
                    spoiled,
                )
            )
    slots.sort(key=lambda slot: slot[0])
    made: dict[ids.TenantId, int] = {}
    before: dict[ids.TenantId, list[Upload]] = defaultdict(list)
    planned_uploads = []
    for _, tenant, _, spoiled in slots:
        turn = made[tenant] = made.get(tenant, 0) + 1
        drawn = fate.random()
        event: Event = (
            "lost"
            if drawn < _LOST_EVENTS
            else "repeated"
            if drawn < _LOST_EVENTS + _REPEATED_EVENTS
            else "kept"
        )
        # Sometimes a tenant repeats its last upload or an earlier one.
        good = [one for one in before[tenant] if not one.spoiled]
        same = good and not spoiled and fate.random() < _SAME_AGAIN_SHARE
        hours = fate.choice(good).hours if same else 24 * _DAYS - turn
        customer = int(tenant[-3:]) % _CUSTOMERS
        upload = Upload(tenant, ids.upload_id(f"u{turn:03d}"), customer, hours, spoiled, event)
        before[tenant].append(upload)
        planned_uploads.append(upload)
    return planned_uploads


class Uploader:
    """Uploads straight to S3, like tenants' apps, and plays the network between S3 and the uploads
    queue."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        end = last_midnight()
        frame = generate(_CUSTOMERS, end - timedelta(days=_DAYS), end, seed=3)
        self._lines = []
        for _, rows in frame.groupby("customer_id", sort=True):
            sink = io.StringIO()
            rows[["timestamp", "consumption"]].to_csv(sink, index=False)
            self._lines.append(sink.getvalue().encode().splitlines(keepends=True))
        self._fates: dict[str, tuple[Event, float]] = {}  # and since when it may be in the queue
        self.happened: Counter[str] = Counter()

    def make(self, upload: Upload) -> None:
        """Put the files, then the manifest."""
        lines = list(self._lines[upload.customer][: upload.hours + 1])
        if upload.spoiled == "a word for a reading":
            lines[100] = lines[100].rpartition(b",")[0] + b",broken meter\n"
        if upload.spoiled == "too few days":
            lines = lines[: 24 * 2]
        content = b"".join(lines)
        s3, bucket = self._deployment.s3, self._deployment.uploads_bucket
        file = s3_keys.upload_file(
            ENERGY, upload.tenant, upload.upload, ids.file_name("consumption.csv")
        )
        declared = {
            "name": "consumption.csv",
            "bytes": len(content),
            "sha256": objects.sha256(content),
        }
        if upload.spoiled == "another file":
            content = content.replace(b",", b";")
        if upload.spoiled != "a file that never came":
            objects.write_bytes(s3, bucket, file, content)
        document = json.dumps(
            {
                "format": 1,
                "workload": ENERGY,
                "tenant": upload.tenant,
                "files": [declared],
                "parameters": _PARAMETERS,
            }
        ).encode()
        if upload.spoiled == "no JSON":
            document = document[:-1]
        self._fates[upload.manifest_key] = upload.event, time.monotonic()
        objects.write_bytes(s3, bucket, upload.manifest_key, document, "application/json")

    def request_of(self, upload: Upload, workloads: Mapping[str, Workload]) -> ids.RequestId | None:
        """The id of the request an upload makes; None when its manifest makes none."""
        try:
            return manifests.read_manifest(self._deployment, upload.manifest_key, workloads).request
        except manifests.RefusedUploadError:
            return None

    def meddle_with_events(self) -> None:
        """Take events off the queue before the sensor sees them. Some are lost, some are sent
        twice, the others go back."""
        now = time.monotonic()
        self._fates = {
            key: fate for key, fate in self._fates.items() if now - fate[1] < _MEDDLING_SECONDS
        }
        if not self._fates:
            return
        sqs, queue, bucket = (
            self._deployment.sqs,
            self._deployment.uploads_queue_url,
            self._deployment.uploads_bucket,
        )
        answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=0)
        for message in answer.get("Messages", []):
            told = [
                self._fates.pop(key, ("kept", now))[0]
                for key in manifests.manifest_keys_in_event(message["Body"], bucket)
            ]
            fate = told[0] if told else "kept"
            for _ in range({"lost": 0, "kept": 1, "repeated": 3}[fate]):
                sqs.send_message(QueueUrl=queue, MessageBody=message["Body"])
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            self.happened[f"{fate} event"] += 1
