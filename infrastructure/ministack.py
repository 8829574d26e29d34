"""``python -m infrastructure.ministack``: ministack, with its state saved within seconds of a
change.

By itself it writes objects at once, but all else at a clean stop only. So a kill would leave
buckets without their tables, queues and stack. A forked process writes each snapshot: it sees one
moment of all services, and no request waits for it.
"""

from __future__ import annotations

import asyncio
import copy
import fcntl
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ministack import app as ministack
from ministack.core import persistence

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_SOON_SECONDS: Final = 2.0  # after a change
# the pause after a snapshot, in times its duration: a large state costs a 25th of one CPU
_RESTS: Final = 25.0
# of one snapshot; a lock that another thread held at the fork is never released in the child
_MAX_SECONDS: Final = 120.0
_RESET: Final = "/_ministack/reset"
_READS: Final = re.compile(r"(BatchGet|Describe|Get|List|PutMetricData|Query|Receive|Scan)")
"""Operations without a change that has to outlive a kill: a received message is there again
later."""


class Snapshots:
    """Saves the state some time after it changed."""

    def __init__(self, lock: int) -> None:
        self._lock = lock
        self._changed = asyncio.Event()
        self._child: int | None = None
        self._task: asyncio.Task[None] | None = None

    def changed(self) -> None:
        """Have the state saved soon."""
        self._changed.set()

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.create_task(self._save_for_ever())

    def stop(self) -> None:
        """End; a snapshot that is being written is given up."""
        if self._task is not None:
            self._task.cancel()
        self.give_up()

    def give_up(self) -> None:
        """Stop the snapshot that is being written: its state is to be dropped, or it takes too
        long."""
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self._child, 0)
            self._child = None

    async def _save_for_ever(self) -> None:
        took = 0.0
        while True:
            await self._changed.wait()
            await asyncio.sleep(max(_SOON_SECONDS, _RESTS * took))
            self._changed.clear()
            began = time.monotonic()
            if not await self._save():
                self._changed.set()
            took = time.monotonic() - began

    async def _save(self) -> bool:
        """Write a snapshot. Returns whether that was done."""
        self._child = child = os.fork()
        if child == 0:
            _write_and_exit(self._lock)
        deadline = time.monotonic() + _MAX_SECONDS
        while self._child == child:
            await asyncio.sleep(0.05)
            if self._child != child:  # given up meanwhile
                return False
            done, status = os.waitpid(child, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
            if done:
                self._child = None
                return status == 0
            if time.monotonic() > deadline:
                self.give_up()
        return False


def _write_and_exit(lock: int) -> None:
    """Write the snapshot in the forked process. It closes the sockets, which are its parent's, and
    keeps the lock until all is written."""
    status = 1
    try:
        for fd in (int(path.name) for path in list(Path("/proc/self/fd").iterdir())):
            if fd > sys.stderr.fileno() and fd != lock:
                with suppress(OSError):
                    os.close(fd)
        gc.disable()
        # The fork is the copy: copying once more would take most of the time, and as much memory
        # again.
        copy.deepcopy = _as_it_is  # type: ignore[assignment]  # of all types
        persistence.save_all(ministack._build_persistence_save_dict())
        status = 0
    finally:
        os._exit(status)


def _as_it_is(state: Any, memo: Any = None) -> Any:  # noqa: ARG001 - as it is called
    return state


def saving(app: Any, snapshots: Snapshots) -> Any:
    """The ASGI application, with a snapshot after each change."""

    async def saved(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, *_lifespan(receive, send, snapshots))
            return
        if _is_foreign(scope):
            await _refuse(scope, send)
            return
        if scope.get("path") == _RESET:
            snapshots.give_up()
        await app(scope, receive, send)
        if _may_change(scope):
            snapshots.changed()

    return saved


def _lifespan(receive: Receive, send: Send, snapshots: Snapshots) -> tuple[Receive, Send]:
    """Snapshots begin when the application has started, and end before it saves by itself."""

    async def heard() -> Message:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            snapshots.stop()
        return message

    async def told(message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            snapshots.start()
        await send(message)

    return heard, told


def _is_foreign(scope: Message) -> bool:
    """Whether a browser sent the request for another machine's page, or to this machine under
    another one's name."""
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        if name == b"origin" and not _is_here(urlsplit(text).hostname):
            return True
        if name == b"host" and not _is_here(urlsplit(f"//{text}").hostname):
            return True
    return False


def _is_here(host: str | None) -> bool:
    return host is not None and (
        host in {"127.0.0.1", "::1", "localhost"} or host.endswith(".localhost")
    )


async def _refuse(scope: Message, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send(
        {
            "type": "http.response.start",
            "status": 403,
            "headers": [(b"content-type", b"text/plain")],
        }
    )
    await send(
        {
            "type": "http.response.body",
            "body": b"This local cloud answers programs and pages of its own machine only.\n",
        }
    )


def _may_change(scope: Message) -> bool:
    if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
        return False
    target = next(
        (value for name, value in scope["headers"] if name == b"x-amz-target"), b""
    ).decode("latin-1")
    return _READS.match(target.rpartition(".")[2]) is None


def main() -> None:
    """Start ministack; its own variables say where and how. It waits until another one on the same
    state has ended."""
    state = Path(persistence.STATE_DIR)
    state.mkdir(parents=True, exist_ok=True)
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.stderr.write(f"Another ministack has {state}; this one waits for its end.\n")
        fcntl.flock(lock, fcntl.LOCK_EX)
    # asyncio.Event finds its loop when it is first waited for, so it can be made here.
    ministack.app = saving(ministack.app, Snapshots(lock))
    ministack.main()


if __name__ == "__main__":
    main()
