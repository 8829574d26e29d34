"""Archives below an S3 prefix, fetched on request, for a server into which SageMaker loads no
models.

An asynchronous endpoint is not multi-model on SageMaker
(docs.aws.amazon.com/sagemaker/latest/dg/async-inference-create-endpoint.html), so its server reads
the tenants' archives itself.
"""

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from containers.runtime.serving.serving_errors import NotFoundError, RefusedModelError, ServingError

_CHUNK: Final = 1 << 20
_URI: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/((?:[A-Za-z0-9!_.*'()-]+/)*)")

_log = logging.getLogger(__name__)


def parse_models_uri(uri: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix/`; raises `ValueError` for another kind of URI."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise ValueError("TENANTRY_MODELS_URI must be s3://bucket/prefix/, with a slash at its end")
    return found[1], found[2]


class RemoteModels:
    """The archives of one prefix; safe to use from several threads.

    `uri` is `s3://bucket/prefix/` (`ValueError` otherwise); it does not fetch an archive of more
    than `max_bytes`.
    """

    def __init__(self, uri: str, max_bytes: int) -> None:
        self._bucket, self._prefix = parse_models_uri(uri)
        self._max_bytes = max_bytes
        # A server without remote models does not import boto3, which takes half a second and 35 MB.
        import boto3
        from botocore.config import Config

        retries: Any = {"mode": "standard", "total_max_attempts": 5}
        self._s3 = boto3.client(
            "s3",
            # SageMaker gives its containers the region in this variable, which boto3 does not read.
            region_name=os.environ.get("AWS_REGION"),
            config=Config(retries=retries, connect_timeout=5, read_timeout=60),
        )

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """The archive of that name as a file, within a `with` block.

        `records.model_of_record` has accepted `name`. Raises `NotFoundError` when there is no
        archive, `RefusedModelError` when it is too large, and `ServingError` when S3 fails.
        """
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="archive-") as folder:
            path = Path(folder) / name.rpartition("/")[2]
            count = self._fetch(name, path)
            _log.info(
                "model_fetched model=%r bytes=%d ms=%.1f",
                name,
                count,
                1000 * (time.monotonic() - started),
            )
            yield path

    def _fetch(self, name: str, path: Path) -> int:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + name)
            with closing(answer["Body"]) as body:
                count = int(answer["ContentLength"])
                if count > self._max_bytes:
                    raise RefusedModelError(
                        f"the archive of {name!r} has {count} bytes; this server takes "
                        f"{self._max_bytes}",
                        "model",
                    )
                with path.open("xb") as file:
                    for chunk in body.iter_chunks(_CHUNK):
                        file.write(chunk)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("NoSuchKey", "404"):
                raise NotFoundError(f"there is no model {name!r}", "model") from error
            raise ServingError(f"the archive of {name!r} could not be fetched: {code}") from error
        except BotoCoreError as error:
            raise ServingError(
                f"the archive of {name!r} could not be fetched: {type(error).__name__}"
            ) from error
        return count
