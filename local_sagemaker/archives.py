"""Extraction of model archives that come from S3: plain files and folders only, inside the target, up to a size."""

import shutil
import tarfile
from pathlib import Path

from local_sagemaker.storage import DataError, safe_path

_MEMBER_LIMIT = 100_000


def extract(archive: Path, folder: Path, limit_bytes: int) -> int:
    """Extract a tar.gz into `folder`; the number of bytes written.

    Raises DataError for anything that is no readable tar.gz, leads out of the folder, is a link or a device, or is larger than `limit_bytes`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    try:
        with tarfile.open(archive, mode="r:gz") as tar:
            for number, member in enumerate(tar):
                size += member.size
                if size > limit_bytes or number >= _MEMBER_LIMIT:
                    raise DataError(f"the archive holds more than {limit_bytes} bytes or {_MEMBER_LIMIT} members")
                if Path(member.name) == Path():
                    continue
                target = safe_path(folder, member.name)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                source = tar.extractfile(member) if member.isreg() else None
                if source is None:
                    raise DataError(f"the archive's member {member.name!r} is no plain file or folder")
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"the archive is no readable tar.gz: {error}") from error
    return size
