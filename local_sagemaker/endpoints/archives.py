"""Extraction of model archives from S3: only plain files and folders inside the target, up to a
size."""

import shutil
import tarfile
import zlib
from pathlib import Path

from local_sagemaker.account.storage import DataError, safe_path

_MEMBER_LIMIT = 100_000
_EXTENDED_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_EXTENDED_BYTES = 4096
_EXTENDED_IN_A_ROW = 4
_EXTENDED_ALLOWANCE = 64 * 1024
_EXTENDED_BYTES_PER_MEMBER = 512


def extract(archive: Path, folder: Path, limit_bytes: int) -> int:
    """Extract a tar.gz into `folder`; returns the number of bytes written.

    Raises DataError for an unreadable tar.gz, a member that leads out of the folder, a link, a
    device, or more than `limit_bytes`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    try:
        with tarfile.open(archive, mode="r:gz", tarinfo=_bounded_headers()) as tar:
            for number, member in enumerate(tar):
                size += member.size
                if member.size < 0 or size > limit_bytes or number >= _MEMBER_LIMIT:
                    raise DataError(
                        f"the archive holds more than {limit_bytes} bytes or {_MEMBER_LIMIT} "
                        f"members"
                    )
                if Path(member.name) == Path():
                    continue
                target = safe_path(folder, member.name)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                source = (
                    tar.extractfile(member) if member.isreg() and not member.issparse() else None
                )
                if source is None:
                    raise DataError(
                        f"the archive's member {member.name[:80]!r} is no plain file or folder"
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, zlib.error) as error:
        raise DataError(f"the archive is no readable tar.gz: {error}") from error
    return size


def _bounded_headers() -> type[tarfile.TarInfo]:
    """The headers of one archive. tarfile calls each header before it reads the member's data, so
    that the header can refuse the member first.

    tarfile's source names `_proc_member` as the method to override. tarfile reads an extended
    header whole, in time that grows with the square of its size. A series of them ends in a
    RecursionError.
    """
    members = in_a_row = extended_bytes = 0

    class Header(tarfile.TarInfo):
        def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
            nonlocal members, in_a_row, extended_bytes
            if self.type == tarfile.GNUTYPE_SPARSE:
                raise DataError("the archive has a sparse file")
            if self.type in _EXTENDED_TYPES:
                in_a_row += 1
                extended_bytes += self.size
                most = _EXTENDED_ALLOWANCE + members * _EXTENDED_BYTES_PER_MEMBER
                if (
                    not 0 <= self.size <= _EXTENDED_BYTES
                    or in_a_row > _EXTENDED_IN_A_ROW
                    or extended_bytes > most
                ):
                    raise DataError(
                        "the archive's members have larger extended headers than plain files need"
                    )
            else:
                members += 1
                in_a_row = 0
            # Typeshed lacks the method.
            return super()._proc_member(tar)  # type: ignore[misc, no-any-return]

    return Header
