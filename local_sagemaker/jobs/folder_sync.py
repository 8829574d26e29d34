"""Folders of running jobs that are kept in S3: checkpoints, and continuous outputs.

Source: docs.aws.amazon.com/sagemaker/latest/dg/model-checkpoints.html. As on AWS, files may reach
S3 in any order.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import Executor, wait
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local_sagemaker.account.storage import (
    S3Location,
    download_all,
    files_below,
    list_prefix,
    upload,
)
from local_sagemaker.jobs.failures import JobFailedError

_log = logging.getLogger(__name__)
_SYNC_SECONDS = 1.0
_ATTEMPTS = 5
_Seen = tuple[int, int]


class FolderSync:
    """One host's folder and the S3 prefix it is synced with. All methods block.

    With `deletions`, what the host deletes disappears from S3 too. Without `links`, symbolic links
    stay out of S3.
    """

    def __init__(
        self,
        s3: Any,
        folder: Path,
        prefix: S3Location,
        pool: Executor,
        *,
        deletions: bool = True,
        links: bool = True,
    ) -> None:
        self._s3 = s3
        self._folder = folder
        self._prefix = prefix.folder
        self._pool = pool
        self._deletions = deletions
        self._links = links
        self._known: dict[str, _Seen] = {}

    def copy_in(self) -> None:
        """Download what earlier jobs left under the prefix. Raises DataError or ClientError."""
        download_all(self._s3, list_prefix(self._s3, self._prefix), self._folder, self._pool)
        self._known = self._scan()

    def sync_out(self) -> int:
        """Upload new and changed files, and delete in S3 the files that this host deleted. Returns
        the number of failed uploads."""
        now = self._scan()
        changed = [name for name, seen in now.items() if self._known.get(name) != seen]
        uploads = {self._pool.submit(self._upload, name): name for name in changed}
        wait(uploads)
        arrived = [name for done, name in uploads.items() if done.result()]
        self._known.update((name, now[name]) for name in arrived)
        for name in self._known.keys() - now.keys():
            if self._deletions:
                target = self._prefix.child(name)
                self._s3.delete_object(Bucket=target.bucket, Key=target.key)
            del self._known[name]
        return len(changed) - len(arrived)

    def _upload(self, name: str) -> bool:
        """False when the file disappeared or S3 refused it; the next round tries again."""
        try:
            upload(self._s3, self._folder / name, self._prefix.child(name))
        except (FileNotFoundError, ClientError):
            return False
        return True

    def _scan(self) -> dict[str, _Seen]:
        found: dict[str, _Seen] = {}
        for name, path in files_below(self._folder, links=self._links):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found[name] = (status.st_size, status.st_mtime_ns)
        return found


@contextlib.asynccontextmanager
async def kept_in_sync(syncs: Sequence[FolderSync]) -> AsyncIterator[None]:
    """Sync the folders out, again and again, until the block ends."""
    ended = asyncio.Event()
    syncing = asyncio.create_task(_keep_syncing(syncs, ended))
    try:
        yield
    finally:
        ended.set()
        # Let the current round end first, because the folders must not disappear during it.
        await asyncio.gather(syncing, return_exceptions=True)


async def _keep_syncing(syncs: Sequence[FolderSync], ended: asyncio.Event) -> None:
    while syncs and not ended.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _SYNC_SECONDS)
            return
        for sync in syncs:
            try:
                await asyncio.to_thread(sync.sync_out)
            except (ClientError, BotoCoreError, OSError) as error:
                # A folder that disappears while it is read raises OSError; the next round reads the
                # current state.
                _log.warning("a folder could not be synced, trying again: %s", error)


def sync_rest(syncs: Iterable[FolderSync], what: str) -> None:
    """Sync the rest that the last round missed, after the containers have ended. Raises
    JobFailedError, which names `what` is synced."""
    for sync in syncs:
        for _ in range(_ATTEMPTS):
            if not sync.sync_out():
                break
        else:
            raise JobFailedError(
                f"InternalServerError: {what} could not be uploaded in {_ATTEMPTS} attempts"
            )
