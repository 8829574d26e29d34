"""Archives whose headers are made to harm their reader; the archives claim to hold little or
nothing."""

from __future__ import annotations

import tarfile


def _block(kind: bytes, size: int = 0, name: str = "model.json") -> bytes:
    """One header block of a tar file, which may claim any size."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def _extended(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """An extended header with its content, padded to whole blocks."""
    return _block(kind, len(content)) + content + bytes(-len(content) % 512)


def _record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n"
    length = len(rest) + len(str(len(rest) + 2))
    return f"{length}{rest}".encode()


_PLAIN = _block(tarfile.REGTYPE)
_END = bytes(1024)
HEADER_BOMBS: dict[str, bytes] = {
    name: content + _END
    for name, content in {
        "digits, which are searched in quadratic time": _extended(b"1" * 900_000) + _PLAIN,
        "records that overlap": _extended(b"2 " * 400_000 + b"=") + _PLAIN,
        "a row of headers, each a call deeper": _extended(_record("comment", "x")) * 900 + _PLAIN,
        "a row of long names": _extended(b"n" * 100, tarfile.GNUTYPE_LONGNAME) * 900 + _PLAIN,
        "a row of global headers": _extended(_record("comment", "x"), tarfile.XGLTYPE) * 900
        + _PLAIN,
        "many large headers": b"".join(
            _extended(b"1" * 4000) + _block(tarfile.REGTYPE, 0, f"{number}.json")
            for number in range(300)
        ),
        "a long name": _extended(b"n" * 100_000, tarfile.GNUTYPE_LONGNAME) + _PLAIN,
        "a sparse file": _block(tarfile.GNUTYPE_SPARSE, 512) + bytes(512),
        "a sparse file by its attributes": _extended(
            _record("GNU.sparse.map", "0,1") + _record("GNU.sparse.size", "1")
        )
        + _PLAIN,
        "a sparse map that is no number": _extended(_record("GNU.sparse.map", "x,y")) + _PLAIN,
        "a size below zero": _extended(_record("size", "-512")) + _PLAIN * 3,
        "a size that is no number": _extended(_record("size", "9" * 3900)) + _PLAIN,
    }.items()
}
