"""The bodies of asynchronous requests and their answers, between S3 and the containers: small ones
in memory, large ones in files of the state folder that have no name and end with the emulator."""

import contextlib
import os
import shutil
import tempfile
from typing import IO

from local_sagemaker.account.cloud import Cloud
from local_sagemaker.account.storage import DataError, S3Location

_IN_MEMORY_BYTES = 1024 * 1024


def size_of(file: IO[bytes]) -> int:
    """The bytes of a file, which then is at its beginning."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


class Bodies:
    """Files for bodies, and their way from and to S3. `read` and `write` block."""

    def __init__(self, cloud: Cloud) -> None:
        self._s3 = cloud.s3
        self._limit = cloud.settings.async_payload_bytes
        self._folder = cloud.settings.state

    def file(self) -> IO[bytes]:
        """An empty file, which the caller closes."""
        return tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES, dir=str(self._folder))

    def holding(self, content: bytes) -> IO[bytes]:
        """A file with this content, at its beginning."""
        file = self.file()
        file.write(content)
        file.seek(0)
        return file

    def read(self, location: S3Location) -> IO[bytes]:
        """An object as a file, at its beginning. Raises DataError, OSError, and boto3's errors."""
        found = self._s3.get_object(Bucket=location.bucket, Key=location.key)
        with contextlib.closing(found["Body"]) as stream, contextlib.ExitStack() as on_error:
            if found["ContentLength"] > self._limit:
                raise DataError(
                    f"the object has {found['ContentLength']} bytes, and the payload of an "
                    f"asynchronous request at most {self._limit}"
                )
            file = on_error.enter_context(self.file())
            shutil.copyfileobj(stream, file, _IN_MEMORY_BYTES)
            file.seek(0)
            on_error.pop_all()
        return file

    def write(self, location: S3Location, body: IO[bytes], content_type: str | None) -> None:
        """A file as an object, from its beginning. Raises boto3's errors."""
        kind = {"ContentType": content_type} if content_type else {}
        body.seek(0)
        self._s3.put_object(Bucket=location.bucket, Key=location.key, Body=body, **kind)
