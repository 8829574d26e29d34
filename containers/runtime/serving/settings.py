"""The server's settings, from the variables that SageMaker and the container's operator set."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from containers.runtime.serving.bodies import REAL_TIME_BYTES
from containers.runtime.serving.memory import default_budget
from containers.runtime.serving.remote_models import parse_models_uri
from contracts import limits, patterns, variables

# CreateTransformJob accepts at most 100 MB as MaxPayloadInMB.
LARGEST_BATCH_MB: Final = 100


@dataclass(frozen=True)
class Settings:
    """The server's settings, from its environment."""

    multi_model: bool
    batch: bool
    model_folder: Path
    models_uri: str | None
    port: int
    host: str
    memory_bytes: int
    evict: bool
    body_bytes: int
    threads: int
    version: str = ""
    answer_digests: bool = False
    max_batch: int = 1
    max_wait_ms: int = 0

    @classmethod
    def of_environment(cls) -> "Settings":
        """Read the variables that SageMaker and the container's operator set. Raises
        `ValueError`."""
        env = os.environ
        batch = env.get("SAGEMAKER_BATCH", "").lower() == "true"
        limit = REAL_TIME_BYTES
        if batch:
            # 0 means that SageMaker sets no limit; the server still keeps one.
            megabytes = (
                _whole("SAGEMAKER_MAX_PAYLOAD_IN_MB", 6, 0, LARGEST_BATCH_MB) or LARGEST_BATCH_MB
            )
            limit = megabytes * 1024 * 1024
        multi_model = env.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true"
        evict = env.get("TENANTRY_EVICT", "none")
        if evict not in ("none", "lru"):
            raise ValueError("TENANTRY_EVICT must be 'none' or 'lru'")
        models_uri = env.get(variables.MODELS_URI) or None
        if models_uri and (multi_model or batch):
            raise ValueError(
                "TENANTRY_MODELS_URI is not for a multi-model endpoint or a batch transform"
            )
        if models_uri:
            parse_models_uri(models_uri)
        max_batch = _whole(variables.MAX_BATCH, 1, 1, limits.BATCH_REQUESTS)
        max_wait_ms = _whole(variables.MAX_WAIT_MS, 0, 0, limits.BATCH_WAIT_MS)
        if max_wait_ms and max_batch == 1:
            raise ValueError(
                f"{variables.MAX_WAIT_MS} is {max_wait_ms}, and there are no batches to wait for; "
                f"set {variables.MAX_BATCH} to 2 or more"
            )
        local = "SAGEMAKER_BASE_DIR" in env
        return cls(
            multi_model=multi_model,
            batch=batch,
            model_folder=Path(env.get("SAGEMAKER_BASE_DIR") or "/opt/ml").absolute() / "model",
            models_uri=models_uri,
            port=_whole("SAGEMAKER_BIND_TO_PORT", 8080, 1, 65535),
            # In a container, clients outside it must reach the server, hence the S104. As a plain
            # process, it serves only its own machine.
            host=env.get("TENANTRY_BIND_HOST") or ("127.0.0.1" if local else "0.0.0.0"),  # noqa: S104
            memory_bytes=_whole("TENANTRY_MODEL_MEMORY_BYTES", default_budget(), 1, 1 << 60),
            # SageMaker unloads the models of a multi-model endpoint itself. In other modes the
            # server has to.
            evict=evict == "lru" or not multi_model,
            body_bytes=limit,
            threads=_whole("TENANTRY_PREDICT_THREADS", os.cpu_count() or 1, 1, 1024),
            version=_version(),
            answer_digests=env.get(variables.ANSWER_DIGESTS, "").lower() == "true",
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
        )


def _version() -> str:
    """The version of the one model, where the control plane names it. Raises ``ValueError``."""
    version = os.environ.get(variables.VERSION, "")
    if version and not patterns.VERSION.fullmatch(version):
        raise ValueError(f"{variables.VERSION} must be a version's name")
    return version


def _whole(name: str, default: int, smallest: int, largest: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not smallest <= int(text) <= largest:
        raise ValueError(f"{name} must be a whole number from {smallest} to {largest}")
    return int(text)
