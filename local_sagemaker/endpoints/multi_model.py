"""The models of one multi-model container: loaded on the first call, and unloaded when
the container's memory is full, the least used first (`eviction`).

Sources: docs.aws.amazon.com/sagemaker/latest/dg/mms-container-apis.html (the container's calls),
…/multi-model-endpoints.html (models stay on the instance's volume after unloading) and
…/multi-model-caching.html.
"""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import ClientError

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.storage import DataError, S3Location, download
from local_sagemaker.endpoints.archives import extract
from local_sagemaker.endpoints.eviction import DecayingUses
from local_sagemaker.endpoints.serving_containers import ServingContainer
from local_sagemaker.errors import LocalSageMakerError, ServiceError
from local_sagemaker.http.client import Answer, ContainerUnreachableError

LOAD_TIMEOUT_SECONDS = 360.0
"""The longest duration of a load; a caller waits only for its first 60 seconds
(`Settings.load_wait_seconds`)."""
_UNLOAD_TIMEOUT_SECONDS = 60.0
Recorder = Callable[[str, float, str], None]
"""Takes a metric's name, value and unit."""


class LoadRefusedError(LocalSageMakerError):
    """The container did not load the model; `answer` is its answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"the container answered {answer.status}")
        self.answer = answer


def model_name(target: str) -> str:
    """The opaque name by which the container knows a TargetModel."""
    return hashlib.sha256(target.encode()).hexdigest()[:32]


@dataclass
class _Loaded:
    """A model that is loaded or being loaded; it is not unloaded while `in_flight` requests need
    it."""

    in_flight: int = 0
    loading: asyncio.Task[None] | None = None


class LoadedModels:
    """The models in one container's memory and on its disk."""

    def __init__(self, cloud: Cloud, container: ServingContainer, record: Recorder) -> None:
        self._cloud = cloud
        self._clock = cloud.clock
        self._container = container
        self._record = record
        self._uses = DecayingUses()
        self._loaded: dict[str, _Loaded] = {}
        self._loading: dict[str, _Loaded] = {}
        self._unloading: dict[str, asyncio.Future[None]] = {}
        self._disk: dict[str, int] = {}
        self._posting = 0
        self._changed = asyncio.Event()

    @property
    def count(self) -> int:
        """Models loaded or being loaded."""
        return len(self._loaded) + len(self._loading)

    def has(self, target: str) -> bool:
        """Whether the model is loaded or being loaded on this instance."""
        return target in self._loaded or target in self._loading

    def in_flight(self, target: str) -> int:
        """The requests that a model has on this instance, those that wait for its load too."""
        loaded = self._loaded.get(target) or self._loading.get(target)
        return loaded.in_flight if loaded else 0

    def is_ready(self, target: str) -> bool:
        """Whether the model is loaded."""
        return target in self._loaded

    def preload(self, target: str) -> None:
        """Begin to load a model before a request needs it."""
        if not self.has(target):
            self._uses.use(target, self.count)
            self._begin_loading(target)

    async def invoke(
        self, target: str, headers: dict[str, str], body: bytes, within: float
    ) -> tuple[Answer, float]:
        """Send one request to a model, and load the model first if necessary. Returns the answer
        and the container's seconds for it; both these and `within` are AWS's.

        Raises LoadRefusedError, ServiceError (no such model, not loaded in time),
        ContainerUnreachableError, TimeoutError.
        """
        self._uses.use(target, self.count)
        path = f"/models/{model_name(target)}/invoke"
        for attempt in range(2):
            loaded = (
                self._loaded.get(target) or self._loading.get(target) or self._begin_loading(target)
            )
            loaded.in_flight += 1
            try:
                await self._wait_until_loaded(target, loaded)
                sent = self._clock.ticks()
                answer = await self._container.send(path, headers=headers, body=body, within=within)
                seconds = self._clock.ticks() - sent
            finally:
                loaded.in_flight -= 1
                if not loaded.in_flight:
                    self._changed.set()
                    if not self._container.spec.cached and self._loaded.get(target) is loaded:
                        await self._unload(target)
            if attempt == 0 and answer.status == 404 and self._loaded.get(target) is loaded:
                # By the multi-model contract, 404 means that the container has not loaded the
                # model.
                del self._loaded[target]
                continue
            if attempt == 0 and answer.status == 507 and await self._make_room(but_not=target):
                continue
            break
        return answer, seconds

    def _begin_loading(self, target: str) -> _Loaded:
        loaded = self._loading[target] = _Loaded()
        loaded.loading = asyncio.create_task(self._load(target, loaded))
        # Waiting callers get the failure. Retrieve it here as well, because after a minute no
        # caller may be waiting.
        loaded.loading.add_done_callback(
            lambda task: None if task.cancelled() else task.exception() and None
        )
        return loaded

    async def _wait_until_loaded(self, target: str, loaded: _Loaded) -> None:
        self._record("ModelCacheHit", 0.0 if loaded.loading else 1.0, "None")
        if (loading := loaded.loading) is not None:
            started = self._clock.ticks()
            try:
                await asyncio.wait_for(
                    asyncio.shield(loading), self._cloud.settings.load_wait_seconds
                )
            except asyncio.CancelledError:
                if loading.cancelled():
                    message = (
                        f"The instance went away while model {target} was loaded. Please "
                        f"retry your request."
                    )
                    raise ServiceError("ServiceUnavailable", message, 503) from None
                raise
            except TimeoutError as error:
                raise ServiceError(
                    "ModelNotReadyException",
                    f"Model {target} is still being loaded. Please retry your request.",
                    429,
                ) from error
            finally:
                self._record(
                    "ModelLoadingWaitTime", (self._clock.ticks() - started) * 1e6, "Microseconds"
                )

    async def _load(self, target: str, loaded: _Loaded) -> None:
        try:
            await self._load_now(target)
            self._loaded[target] = loaded
        finally:
            loaded.loading = None
            del self._loading[target]

    async def _load_now(self, target: str) -> None:
        if target in self._unloading:
            await self._unloading[target]
        async with asyncio.timeout(LOAD_TIMEOUT_SECONDS):
            folder = self._folder(target)
            if target not in self._disk:
                started = self._clock.ticks()
                self._disk[target] = await asyncio.to_thread(self._download, target, folder)
                self._record(
                    "ModelDownloadingTime", (self._clock.ticks() - started) * 1e6, "Microseconds"
                )
                await self._keep_disk_within_limit(but_not=target)
            started = self._clock.ticks()
            url = self._cloud.runtime.images.path_inside(self._container.folder, folder)
            document = json.dumps({"model_name": model_name(target), "url": url}).encode()
            while True:
                answer = await self._post(document)
                if answer.status != 507 or not await self._make_room(but_not=target):
                    break
            if answer.status not in (200, 409):
                self._forget_on_disk(target)
                raise LoadRefusedError(answer)
            self._record("ModelLoadingTime", (self._clock.ticks() - started) * 1e6, "Microseconds")

    async def _post(self, document: bytes) -> Answer:
        self._posting += 1
        try:
            return await self._container.client.request(
                "POST",
                "/models",
                headers={"content-type": "application/json"},
                body=document,
                within=LOAD_TIMEOUT_SECONDS,
            )
        finally:
            self._posting -= 1
            self._changed.set()

    def _folder(self, target: str) -> Path:
        return self._container.folder / "models" / model_name(target) / "model"

    def _download(self, target: str, folder: Path) -> int:
        prefix = self._container.spec.data
        if prefix is None:
            raise RuntimeError("a multi-model container without a prefix")
        location = S3Location(prefix.bucket, prefix.key + target)
        archive = folder.parent / "model.tar.gz"
        try:
            download(self._cloud.s3, location, archive)
            return extract(archive, folder, self._cloud.settings.archive_limit_bytes)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                message = (
                    f"Model {target} could not be downloaded at the moment: {error}. Please "
                    f"retry your request."
                )
                raise ServiceError("ServiceUnavailable", message, 503) from error
            raise ServiceError(
                "ValidationError",
                f"Failed to download model data (bucket: {location.bucket}, key: {location.key}). "
                f"Please ensure that there is an object "
                "located at the URL and that the role passed to CreateModel has permissions to "
                "download the model.",
            ) from error
        except DataError as error:
            shutil.rmtree(folder.parent, ignore_errors=True)
            raise ServiceError(
                "ValidationError",
                f"Failed to extract model data archive (bucket: {location.bucket}, key: "
                f"{location.key}): {error}",
            ) from error
        finally:
            archive.unlink(missing_ok=True)

    async def _make_room(self, but_not: str) -> bool:
        """Unload the least used model. Returns False when no model can be unloaded now or soon.

        While all other models are in use, or models are still being loaded or unloaded, it waits
        for a change.
        """
        while True:
            others = [target for target in self._loaded if target != but_not]
            if idle := [target for target in others if not self._loaded[target].in_flight]:
                await self._unload(self._uses.victim(idle))
                return True
            if not others and not self._posting and not self._unloading:
                return False
            self._changed.clear()
            await self._changed.wait()
            if not others:
                return True

    async def _unload(self, target: str) -> None:
        del self._loaded[target]
        done = self._unloading[target] = asyncio.get_running_loop().create_future()
        started = self._clock.ticks()
        try:
            await self._container.client.request(
                "DELETE", f"/models/{model_name(target)}", within=_UNLOAD_TIMEOUT_SECONDS
            )
        except (ContainerUnreachableError, TimeoutError):
            return  # the instance is failing; its replacement starts with nothing loaded
        finally:
            del self._unloading[target]
            done.set_result(None)
            self._changed.set()
        self._record("ModelUnloadingTime", (self._clock.ticks() - started) * 1e6, "Microseconds")

    async def _keep_disk_within_limit(self, but_not: str) -> None:
        """Delete the least used models: first copies of models that are not loaded, then
        loaded models, which are unloaded as well."""
        limit = self._cloud.settings.model_disk_bytes
        for unloaded_only in (True, False):
            for target in sorted(self._disk, key=self._uses.rank):
                if sum(self._disk.values()) <= limit:
                    return
                loaded = self._loaded.get(target)
                if (
                    target == but_not
                    or target in self._loading
                    or (loaded and (unloaded_only or loaded.in_flight))
                ):
                    continue
                if loaded:
                    await self._unload(target)
                self._forget_on_disk(target)

    def _forget_on_disk(self, target: str) -> None:
        if self._disk.pop(target, None) is not None:
            shutil.rmtree(self._folder(target).parent, ignore_errors=True)

    async def close(self) -> None:
        """End the loads in progress."""
        tasks = [loaded.loading for loaded in self._loading.values() if loaded.loading is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
