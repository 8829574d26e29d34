"""Callers of an endpoint, who ask it again and again from several threads."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError


class Load:
    """The answers that callers got: how many by the version of the container, and the failures."""

    def __init__(self, runtime: Any, endpoint: str, body: bytes) -> None:
        self._runtime, self._endpoint, self._body = runtime, endpoint, body
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []

    def forget(self) -> None:
        """Count anew."""
        with self._lock:
            self.versions.clear()

    def counted(self) -> Counter[str]:
        """The answers up to now."""
        with self._lock:
            return self.versions.copy()

    def end(self) -> None:
        """Stop asking after the next answers."""
        self._stop.set()

    def ask(self) -> None:
        """Ask until `end`."""
        while not self._stop.is_set():
            try:
                answer = self._runtime.invoke_endpoint(EndpointName=self._endpoint, Body=self._body)
                told = json.loads(answer["Body"].read())
            except ClientError as error:
                with self._lock:
                    self.failures.append(str(error))
            else:
                with self._lock:
                    self.versions[told["environment"]["ECHO_VERSION"]] += 1
            time.sleep(0.01)


@contextmanager
def under_load(
    runtime: Any, endpoint: str, body: bytes = b"hello", callers: int = 3
) -> Iterator[Load]:
    """Callers while the block runs; their answers are complete when it has ended."""
    load = Load(runtime, endpoint, body)
    threads = [threading.Thread(target=load.ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.end()
        for thread in threads:
            thread.join()
