"""Checkpoints: copied in from S3 before training, synced out while it runs.

Source: docs.aws.amazon.com/sagemaker/latest/dg/model-checkpoints.html. As on AWS, files may reach
S3 in any order.
"""

from concurrent.futures import Executor, wait
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from local_sagemaker.account.storage import S3Location, download_all, list_prefix, upload

_Seen = tuple[int, int]


class CheckpointSync:
    """One host's checkpoint folder and the S3 prefix it is synced with. All methods block."""

    def __init__(self, s3: Any, folder: Path, prefix: S3Location, pool: Executor) -> None:
        self._s3 = s3
        self._folder = folder
        self._prefix = prefix.folder
        self._pool = pool
        self._known: dict[str, _Seen] = {}

    def copy_in(self) -> None:
        """Download the checkpoints of earlier jobs under the prefix. Raises DataError or
        ClientError."""
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
        for path in self._folder.rglob("*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found[path.relative_to(self._folder).as_posix()] = (
                    status.st_size,
                    status.st_mtime_ns,
                )
        return found
