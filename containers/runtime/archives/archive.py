"""A model's archive. The same content gives the same bytes, and reading trusts no archive.

An archive is a gzipped tar of plain files. Nothing in it is trusted: the reader bounds counts and
sizes. It refuses any member that is not a plain file or folder inside the target before it writes a
byte of it.
"""

import contextlib
import gzip
import hashlib
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, cast

from containers.runtime.errors import ContainerError
from contracts.outcomes import FileDigest

_CHUNK: Final = 1 << 20
_MIB: Final = 1 << 20
# Bytes besides the files' own: for each member its headers and padding; once the end marker,
# folders and tar's read-ahead.
_MEMBER_ALLOWANCE: Final = 4096
_STREAM_ALLOWANCE: Final = 1 << 20
_TAR_END: Final = bytes(2 * tarfile.BLOCKSIZE)
# Extended headers (names, times, attributes of the member that follows): tarfile reads each whole,
# in time that grows with the square of its size.
_EXTENDED_TYPES: Final = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_EXTENDED_BYTES: Final = 4096
_EXTENDED_IN_A_ROW: Final = 4
_EXTENDED_ALLOWANCE: Final = 64 << 10
_EXTENDED_BYTES_PER_MEMBER: Final = 512


class RefusedArchiveError(ContainerError, ValueError):
    """The archive or folder of a model is refused; the message names the fault."""


@dataclass(frozen=True)
class ArchiveLimits:
    """The limits of one archive: bytes of all files together, and number of members."""

    extracted_bytes: int = 512 * _MIB
    members: int = 1000


DEFAULT_LIMITS: Final = ArchiveLimits()


class _HashingWriter(io.RawIOBase):
    """Counts and hashes the bytes that it passes on to `target`."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self.sha256 = hashlib.sha256()
        self.count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # gzip passes only bytes
        self.sha256.update(data)
        self.count += len(data)
        return self._target.write(data)


def write_archive(
    folder: Path, target: Path, extra: Mapping[str, bytes] | None = None
) -> FileDigest:
    """Archive the files of `folder` and of `extra` (name to content) as `target`, reproducibly;
    `extra` overrides files of the same name.

    Names are sorted; times, owners and modes are constant. The same content therefore gives the
    same SHA-256 on any machine with the same zlib. Raises `RefusedArchiveError` for a link, a
    device or a name that `extract_archive` would refuse.
    """
    contents: dict[str, Path | bytes] = {}
    for path in _plain_files(folder, DEFAULT_LIMITS):
        contents[path.relative_to(folder).as_posix()] = path
    contents.update(extra or {})
    with target.open("wb") as file:
        hashing = _HashingWriter(file)
        with (
            gzip.GzipFile(
                filename="", mode="wb", compresslevel=6, fileobj=hashing, mtime=0
            ) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name in sorted(contents):
                _checked_name(name)
                _add(tar, name, contents[name])
    return FileDigest(bytes=hashing.count, sha256=hashing.sha256.hexdigest())


def _add(tar: tarfile.TarFile, name: str, content: Path | bytes) -> None:
    member = tarfile.TarInfo(name)
    member.mode = 0o644
    if isinstance(content, bytes):
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    else:
        with content.open("rb") as file:
            member.size = os.fstat(file.fileno()).st_size
            tar.addfile(member, file)


def digest_of(path: Path) -> FileDigest:
    """Size and SHA-256 of a file on disk."""
    digest = hashlib.sha256()
    count = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            count += len(chunk)
    return FileDigest(bytes=count, sha256=digest.hexdigest())


def extract_archive(archive: Path, folder: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
    """Extract `archive` into the existing, empty `folder`.

    Raises `RefusedArchiveError` unless the archive is a whole gzipped tar of plain files inside
    `folder` within `limits`. It refuses truncated or corrupt data, links, devices, absolute names,
    `..`, a name twice, too many members and too many bytes. Members extracted before the error stay
    in `folder`, for the caller to delete.
    """
    with (
        _refusing(archive, "gzipped tar"),
        archive.open("rb") as file,
        gzip.GzipFile(fileobj=file) as zipped,
    ):
        _extract(cast(BinaryIO, zipped), folder, limits)


def extract_tar(archive: Path, folder: Path, members: int = DEFAULT_LIMITS.members) -> None:
    """Extract a tar that is not compressed, as `extract_archive` does. Its files are no larger than
    itself, so it bounds their bytes."""
    with _refusing(archive, "tar"), archive.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Two empty blocks end a tar. tarfile would take one that was cut between two members.
        file.seek(max(0, size - len(_TAR_END)))
        if file.read() != _TAR_END:
            raise RefusedArchiveError(f"{archive.name} is not a whole tar archive: it has no end")
        file.seek(0)
        _extract(file, folder, ArchiveLimits(size, members))


@contextlib.contextmanager
def _refusing(archive: Path, kind: str) -> Iterator[None]:
    """Turns what Python raises for a malformed archive into `RefusedArchiveError`."""
    try:
        yield
    except RefusedArchiveError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RefusedArchiveError(
            f"{archive.name} is not a whole {kind} archive: {error}"
        ) from error
    except (UnicodeError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise RefusedArchiveError(
            f"{archive.name} has members whose names contradict each other: {error}"
        ) from error
    except FileNotFoundError as error:
        raise RefusedArchiveError(f"there is no archive at {archive}") from error
    except (ValueError, OverflowError) as error:  # tarfile raises these for malformed numbers
        raise RefusedArchiveError(
            f"{archive.name} has a member whose header cannot be read"
        ) from error


def _extract(stream: BinaryIO, folder: Path, limits: ArchiveLimits) -> None:
    remaining = limits.extracted_bytes
    # The members' announced sizes bound the stream. Padding and extended headers, which tarfile
    # reads whole, count against a small allowance.
    bounded = _BoundedReader(stream)
    # Read as a stream ("r|"): members come in file order, and only one header is held at a time.
    with tarfile.open(
        fileobj=cast(BinaryIO, bounded), mode="r|", tarinfo=_bounded_headers()
    ) as tar:
        for count, member in enumerate(tar, start=1):
            if count > limits.members:
                raise RefusedArchiveError(f"the archive has more than {limits.members} members")
            path = folder / _checked_name(member.name)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            if not member.isreg() or member.issparse() or member.size < 0:
                raise RefusedArchiveError(
                    f"{_shown(member.name)} is not a plain file; links and devices are refused"
                )
            remaining -= member.size
            if remaining < 0:
                raise RefusedArchiveError(
                    f"the archive's files are larger than {limits.extracted_bytes} bytes"
                )
            bounded.allow(member.size + _MEMBER_ALLOWANCE)
            path.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            if source is None:
                raise RefusedArchiveError(f"{_shown(member.name)} has no content")
            with path.open("xb") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
    # The tar ends at its end marker. The rest of a gzip must still be present and intact, or it
    # was truncated.
    while bounded.read(_CHUNK):
        pass


def _bounded_headers() -> type[tarfile.TarInfo]:
    """The headers of one archive. tarfile calls each header before it reads the member's data, so
    that the header can refuse the member first.

    tarfile's source names `_proc_member` as the method to override. Without the limits, an archive
    of some kilobytes occupies a processor for hours, and a series of extended headers ends in a
    RecursionError.
    """
    members = in_a_row = extended_bytes = 0

    class Header(tarfile.TarInfo):
        def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
            nonlocal members, in_a_row, extended_bytes
            if self.type == tarfile.GNUTYPE_SPARSE:
                raise RefusedArchiveError("the archive has a sparse file; write it as a plain one")
            if self.type in _EXTENDED_TYPES:
                in_a_row += 1
                extended_bytes += self.size
                most = _EXTENDED_ALLOWANCE + members * _EXTENDED_BYTES_PER_MEMBER
                if (
                    not 0 <= self.size <= _EXTENDED_BYTES
                    or in_a_row > _EXTENDED_IN_A_ROW
                    or extended_bytes > most
                ):
                    raise RefusedArchiveError(
                        "the archive's members have larger extended headers than plain files need"
                    )
            else:
                members += 1
                in_a_row = 0
            # Typeshed lacks the method.
            return super()._proc_member(tar)  # type: ignore[misc, no-any-return]

    return Header


class _BoundedReader:
    """Reads from `source`, and refuses to return more bytes than were allowed."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._left = _STREAM_ALLOWANCE

    def allow(self, count: int) -> None:
        self._left += count

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise RefusedArchiveError("the archive expands to far more than the files it holds")
        return data


def check_folder(folder: Path, limits: ArchiveLimits = DEFAULT_LIMITS) -> None:
    """Check an extracted model by the same rules: only plain files and folders, within `limits`.

    Raises `RefusedArchiveError`, also for a missing folder.
    """
    if not folder.is_dir():
        raise RefusedArchiveError(f"there is no folder at {folder}")
    _plain_files(folder, limits)


def _plain_files(folder: Path, limits: ArchiveLimits) -> list[Path]:
    """The plain files below `folder`; raises `RefusedArchiveError` for anything that is neither
    file nor folder."""
    files: list[Path] = []
    pending = [folder]
    members = total = 0
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                members += 1
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(Path(entry.path))
                elif stat.S_ISREG(status.st_mode):
                    total += status.st_size
                    files.append(Path(entry.path))
                else:
                    raise RefusedArchiveError(
                        f"{_shown(entry.name)} is not a plain file; links and devices are refused"
                    )
                if members > limits.members:
                    raise RefusedArchiveError(f"the model has more than {limits.members} files")
                if total > limits.extracted_bytes:
                    raise RefusedArchiveError(
                        f"the model's files are larger than {limits.extracted_bytes} bytes"
                    )
    return files


def _checked_name(name: str) -> str:
    """`name` if it stays inside the folder it is extracted into; raises `RefusedArchiveError`
    otherwise."""
    parts = PurePosixPath(name).parts
    encoded = name.encode("utf-8", "surrogateescape")
    if (
        not name
        or name.startswith("/")
        or ".." in parts
        or "\\" in name
        or "\0" in name
        or len(encoded) > 255
    ):
        raise RefusedArchiveError(f"{_shown(name)} is not a name inside the archive's own folder")
    return name


def _shown(name: str) -> str:
    """A member's name for a message: always quoted, escaped and short."""
    return ascii(name if len(name) <= 80 else name[:77] + "…")
