"""The file that names a local cloud: the variables that botocore reads, one a line, in a form that
a shell reads too.

The program that starts a local cloud writes it: ``make run`` writes ``.tenantry/environment``.
``tenantry`` finds it from any folder of the project. It holds no secrets: a local cloud's
credentials are none.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tenantry.errors import TenantryError

LOCAL_FILE: Final = Path(__file__).resolve().parents[2] / ".tenantry" / "environment"
"""Where ``make run`` writes it."""
_PARTS: Final = LOCAL_FILE.parts[-2:]
_NAMES_A_CLOUD: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONTAINER_CREDENTIALS_",
    "AWS_DEFAULT_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
"""The prefixes of the variables that name an AWS account or its address."""
ANOTHERS: Final = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE", "AWS_SESSION_TOKEN")
"""The variables that would override, or mix with, the credentials of a file."""
START: Final = "start the local cloud with `make run`"
_LINE: Final = re.compile(r"((?:AWS|TENANTRY)_[A-Z0-9_]{1,60})=([\x21-\x7e]{0,500})")
_MAX_BYTES: Final = 16 * 1024
_PATIENCE_SECONDS: Final = 3.0


class NoLocalCloudError(TenantryError, RuntimeError):
    """There is no local cloud where the file says, or no such file; the message says how to start
    one."""


@contextmanager
def written(path: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """Keep the file at ``path`` for the length of a ``with`` block. It appears whole or not at all.

    Raises:
        ValueError: a variable's name or value cannot stand in it.
    """
    lines = [f"{name}={value}" for name, value in variables.items()]
    for line in lines:
        if not _LINE.fullmatch(line):
            raise ValueError(
                f"{line[:80]!r} cannot stand in an environment file; it must match {_LINE.pattern}"
            )
    beside = path.with_suffix(".new")
    beside.write_text("".join(f"{line}\n" for line in lines))
    beside.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def read(path: Path) -> dict[str, str]:
    """The variables in the file.

    Raises:
        NoLocalCloudError: it is not there, or is not such a file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise NoLocalCloudError(
            f"there is no local cloud: {path} cannot be read ({error.strerror}); {START}"
        ) from error
    found = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        matched = _LINE.fullmatch(line)
        if matched is None or len(content) > _MAX_BYTES:
            raise NoLocalCloudError(
                f"{path}, line {number}: not NAME=value of an AWS_ or TENANTRY_ variable; `make "
                f"run` writes it anew"
            )
        found[matched[1]] = matched[2]
    return found


def find(start: Path) -> Path | None:
    """The file of the local cloud that runs in a folder or in one above it; None if there is none.

    Another user's file is ignored, because it could send uploads to that user.
    """
    for folder in (start, *start.parents):
        path = folder.joinpath(*_PARTS)
        try:
            if path.is_file() and path.stat().st_uid == os.getuid():
                return path
        except OSError:  # a folder that this user may not read
            continue
    return None


def local_file() -> Path:
    """The file of the local cloud around the working folder, else of this installation's own."""
    return find(Path.cwd()) or LOCAL_FILE


def names_a_cloud(variables: Mapping[str, str]) -> bool:
    """Whether variables name a cloud, so that no file has to be found."""
    return any(value and name.startswith(_NAMES_A_CLOUD) for name, value in variables.items())


def is_local(variables: Mapping[str, str]) -> bool:
    """Whether variables send every call to this machine."""
    if "AWS_ENDPOINT_URL" not in variables:
        return False
    urls = [url for name, url in variables.items() if name.startswith("AWS_ENDPOINT_URL")]
    return all(map(_is_of_this_machine, urls))


def _is_of_this_machine(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def use(path: Path) -> None:
    """Point this process at the file's local cloud, if it answers, and at nothing else.

    Raises:
        NoLocalCloudError: the file cannot be used, or nothing listens there any more.
    """
    variables = read(path)
    must_answer(variables)
    for name in [*os.environ]:
        of_an_endpoint = name.startswith("AWS_ENDPOINT_URL") and "AWS_ENDPOINT_URL" in variables
        of_an_account = name in ANOTHERS and "AWS_ACCESS_KEY_ID" in variables
        if of_an_endpoint or of_an_account:
            del os.environ[name]
    os.environ.update(variables)


def must_answer(variables: Mapping[str, str]) -> None:
    """Check that something listens where the variables send calls. An SDK would try for a minute
    before it reported a failure.

    Raises:
        NoLocalCloudError: nothing does.
    """
    for name, url in variables.items():
        if not name.startswith("AWS_ENDPOINT_URL"):
            continue
        try:
            address = urlsplit(url)
            with socket.create_connection(
                (address.hostname or "", address.port or 443), timeout=_PATIENCE_SECONDS
            ):
                pass
        except (OSError, ValueError) as error:
            raise NoLocalCloudError(f"{name}={url} does not answer ({error}); {START}") from error
