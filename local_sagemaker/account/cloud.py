"""The objects that the whole emulator shares: settings, stored resources, containers, AWS clients,
and names."""

import base64
import binascii
import io
import json
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import urllib3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config

from local_sagemaker.account.billing import Meter
from local_sagemaker.account.logs import LogStream
from local_sagemaker.account.prices import Prices
from local_sagemaker.account.provisioning import ProvisioningDelay
from local_sagemaker.account.rates import (
    SPOT_TRAINING,
    TRAINING,
    USAGES,
    WARM_POOL,
    InstanceQuota,
    Machine,
    TypeQuota,
)
from local_sagemaker.account.state import Document, Store
from local_sagemaker.clock import Clock
from local_sagemaker.errors import validation
from local_sagemaker.faults.plan import Faults, Subject
from local_sagemaker.processes.containers import ContainerRuntime
from local_sagemaker.processes.folders import Folders
from local_sagemaker.processes.images import images_here
from local_sagemaker.serverless.cold_starts import ColdStarts

_DEFAULT_RESULTS = 10
"""The documented default of ListEndpoints and ListTransformJobs; the other lists document none."""
_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
"""The body of S3's 503 (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html)."""
caller: ContextVar[str] = ContextVar("caller", default="")
"""The caller of the current call: a digest of its session's credentials."""
Operation = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Settings:
    """The settings of the command line; `python -m local_sagemaker --help` explains each.

    Without `containers`, a folder, containers run from images.
    """

    port: int
    state: Path
    containers: Path | None
    region: str
    account_id: str
    create_training_job_rate: float = 1.0
    create_training_job_burst: int = 10
    instance_quota: int = 20
    metrics_seconds: float = 10.0
    load_wait_seconds: float = 60.0
    model_disk_bytes: int = 2 * 1024**3
    async_payload_bytes: int = 1024**3
    time_lapse: int = 1
    provisioning_seconds: float = 0.0
    endpoint_provisioning: tuple[ProvisioningDelay, ...] = ()
    type_quotas: tuple[TypeQuota, ...] = ()
    warm_pool_quota: int = 0
    prices: Mapping[str, float] | None = None
    currency: str = "USD"
    discounts: Mapping[str, float] = field(default_factory=dict)
    serverless_idle_seconds: float = 420.0
    serverless_setup_seconds: float = 1.5
    serverless_setup_seconds_per_gib: float = 4.0
    serverless_setup_sigma: float = 0.25
    serverless_setup_seed: int | None = None
    spot_billed_share: float = 0.3
    ping_seconds: float = 5.0
    failed_pings: int = 6
    archive_limit_bytes: int = 1024**3
    allowed_hosts: tuple[str, ...] = ()


class Cloud:
    """One running emulator."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = Clock(settings.time_lapse)
        self.store = Store(settings.state)
        self.faults = Faults()
        self.folder = settings.state / "instances"
        state = settings.state
        images = Folders(settings.containers, state) if settings.containers else images_here(state)
        self.runtime = ContainerRuntime(images, state)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.transfers = ThreadPoolExecutor(8, thread_name_prefix="transfer")
        self.meter = Meter(
            self.store,
            self.clock,
            Prices(settings.prices, settings.region, settings.currency),
            settings.region,
            settings.currency,
            settings.discounts,
        )
        self.cold_starts = ColdStarts(
            settings.serverless_setup_seconds,
            settings.serverless_setup_seconds_per_gib,
            settings.serverless_setup_sigma,
            settings.serverless_setup_seed,
        )
        training = Machine(settings.instance_quota)
        machines = {TRAINING: training, SPOT_TRAINING: training, WARM_POOL: None}
        others = {WARM_POOL: settings.warm_pool_quota}
        self.quotas = {
            usage: InstanceQuota(
                usage,
                settings.type_quotas,
                others=others.get(usage),
                within=machines.get(usage, Machine(settings.instance_quota)),
            )
            for usage in USAGES
        }

    @cached_property
    def _session(self) -> boto3.Session:
        return boto3.Session(region_name=self.settings.region)

    def _client(self, service: str) -> Any:
        config = Config(
            max_pool_connections=32, retries={"mode": "standard", "total_max_attempts": 5}
        )
        # The service's name is a variable, which boto3-stubs' overloads do not accept.
        return self._session.client(service, config=config)  # type: ignore[call-overload]

    @cached_property
    def s3(self) -> Any:
        """Thread-safe S3 client. The faults planned for S3 apply to each of its requests, including
        retries."""
        client = self._client("s3")
        client.meta.events.register("before-send.s3", self._s3_fault)
        return client

    def _s3_fault(
        self, request: AWSPreparedRequest, event_name: str, **_: Any
    ) -> AWSResponse | None:
        """S3's answer under load instead of the request, where a fault is planned; botocore then
        sends nothing."""
        operation = event_name.rpartition(".")[2]
        path = urlsplit(request.url).path
        if not self.faults.strikes("s3_error", Subject(f"{operation} {path}", operation=operation)):
            return None
        body = urllib3.HTTPResponse(io.BytesIO(_SLOW_DOWN), status=503, preload_content=False)
        headers = HTTPHeaders.from_dict({"content-type": "application/xml"})
        return AWSResponse(request.url, 503, headers, body)

    @cached_property
    def logs(self) -> Any:
        """Thread-safe CloudWatch Logs client."""
        return self._client("logs")

    @cached_property
    def sns(self) -> Any:
        """Thread-safe SNS client."""
        return self._client("sns")

    def quota(self, usage: str) -> InstanceQuota:
        """The quota of one usage, by its name in `rates`."""
        return self.quotas[usage]

    def connect(self) -> None:
        """Create the clients now rather than in the first request; each takes some tens of
        milliseconds."""
        # Reading the property creates the client.
        self.s3, self.logs, self.sns  # noqa: B018

    def log_stream(self, group: str, stream: str) -> LogStream:
        """A new log stream; its group is created with the first line."""
        return LogStream(self.logs, group, stream)

    def arn(self, kind: str, name: str) -> str:
        """`arn:aws:sagemaker:{region}:{account}:{kind}/{name}`; SageMaker writes names in ARNs in
        lower case."""
        region, account = self.settings.region, self.settings.account_id
        return f"arn:aws:sagemaker:{region}:{account}:{kind}/{name.lower()}"

    def taken(self, kind: str, name: str) -> bool:
        """Whether a resource has this name in any case, because both would have the same ARN.

        AWS keeps the case of a name but ignores it in comparisons
        (docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateEndpoint.html, "The name is
        case-insensitive in CreateEndpoint").
        """
        return self.store.get("tags", self.arn(kind, name)) is not None

    def put_tags(self, arn: str, tags: list[dict[str, str]] | None) -> None:
        """Store a resource's tags, also an empty list, which shows that the resource exists."""
        if self.store.get("tags", arn) is not None:
            self.meter.settle()
        self.store.put("tags", arn, {"Tags": tags or []})

    def close(self) -> None:
        """End every container and release the state folder."""
        self.runtime.close()
        self.transfers.shutdown(wait=False, cancel_futures=True)
        self.store.close()


def page(
    resources: Iterable[tuple[str, Document]],
    params: dict[str, Any],
    *,
    status: str | None = None,
    order: str = "Descending",
) -> tuple[list[Document], str | None]:
    """One page of a List operation, by its common members: filters, SortBy, SortOrder, MaxResults,
    NextToken.

    `status` names the member that StatusEquals and `SortBy: Status` refer to. The token names the
    last entry of the page. An entry created or deleted between two pages therefore neither repeats
    nor hides another.
    """

    def wanted(name: str, document: Document) -> bool:
        created: float = document["CreationTime"]
        return (
            params.get("NameContains", "").lower() in name.lower()
            and (
                "StatusEquals" not in params
                or status is None
                or document[status] == params["StatusEquals"]
            )
            and _within(created, params, "CreationTime")
            and _within(document.get("LastModifiedTime") or created, params, "LastModifiedTime")
        )

    def position(name: str, document: Document) -> list[Any]:
        by = params.get("SortBy", "CreationTime")
        if by == "Name":
            return ["", name]
        return [document[status] if by == "Status" and status else document["CreationTime"], name]

    descending = params.get("SortOrder", order) == "Descending"
    entries = sorted(
        (
            (position(name, document), document)
            for name, document in resources
            if wanted(name, document)
        ),
        key=lambda entry: entry[0],
        reverse=descending,
    )
    if token := params.get("NextToken"):
        try:
            last = json.loads(base64.urlsafe_b64decode(token))
            entries = [
                entry for entry in entries if (entry[0] < last if descending else entry[0] > last)
            ]
        except (ValueError, TypeError, binascii.Error) as error:
            raise validation("Invalid NextToken") from error
    count = params.get("MaxResults", _DEFAULT_RESULTS)
    following = (
        base64.urlsafe_b64encode(json.dumps(entries[count - 1][0]).encode()).decode()
        if len(entries) > count
        else None
    )
    return [document for _, document in entries[:count]], following


def _within(moment: float, params: dict[str, Any], member: str) -> bool:
    after, before = params.get(f"{member}After"), params.get(f"{member}Before")
    return (after is None or moment >= after) and (before is None or moment <= before)
