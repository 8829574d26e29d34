"""The outcome of a task of a packed training job, which lies beside its archive and travels in a
message of progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from contracts import patterns
from contracts.documents import Fields
from contracts.limits import FORMAT, MAX_FILES, OUTCOME_BYTES, REASON_CHARACTERS

STATUSES: Final = ("succeeded", "failed")
_KNOWN: Final = (
    "format",
    "task",
    "tenant",
    "version",
    "status",
    "reason",
    "retryable",
    "seconds",
    "cpu_seconds",
    "archive",
    "metrics",
    "card",
    "preview",
    "files",
)


@dataclass(frozen=True)
class FileDigest:
    """Size in bytes and SHA-256 (hexadecimal) of a file."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, fields: Fields) -> FileDigest:
        """Raises ``MalformedDocumentError``."""
        size = fields.values.get("bytes")
        if type(size) is not int or size < 0:
            fields.refuse("bytes", "must be a whole number")
        return cls(size, fields.text("sha256", patterns.SHA256))

    def document(self) -> dict[str, Any]:
        """The digest as JSON values."""
        return {"bytes": self.bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task.

    A ``status`` of succeeded comes with ``archive``, one of failed with ``reason``, a sentence for
    the tenant's owner; ``retryable`` says whether trying the same data again may help. ``seconds``
    of the clock and of the processor are the task's own. ``metrics`` are finite numbers, ``card``
    describes the model, ``preview`` is small data for people, ``files`` lie beside the archive.
    ``others`` are fields of another release.
    """

    task: str
    tenant: str
    version: str
    status: str
    seconds: float
    cpu_seconds: float
    reason: str | None = None
    retryable: bool = False
    archive: FileDigest | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    preview: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes) -> Outcome:
        """Read the document beside an archive. Raises ``MalformedDocumentError``."""
        return cls.of(Fields.read(content, "the outcome", OUTCOME_BYTES))

    @classmethod
    def of_value(cls, value: Any) -> Outcome:
        """Read an outcome inside another document. Raises ``MalformedDocumentError``."""
        return cls.of(Fields.of(value, "the outcome"))

    @classmethod
    def of(cls, fields: Fields) -> Outcome:
        """Raises ``MalformedDocumentError``."""
        fields.require_format()
        status, reason = fields.one_of("status", STATUSES), fields.values.get("reason")
        if reason is not None and not (
            isinstance(reason, str) and len(reason) <= REASON_CHARACTERS
        ):
            fields.refuse("reason", f"must be a text of at most {REASON_CHARACTERS} characters")
        archive = fields.optional("archive", FileDigest.of)
        if status == "succeeded" and (archive is None or not archive.bytes):
            fields.refuse("archive", "must be there: the task succeeded")
        files = fields.mapping("files")
        if len(files) > MAX_FILES:
            fields.refuse("files", f"has {len(files)} entries; at most {MAX_FILES} are allowed")
        for name in files:
            if not patterns.FILE.fullmatch(name):
                fields.refuse("files", f"must have names that match {patterns.FILE.pattern}")
        return cls(
            task=fields.text("task", patterns.TASK),
            tenant=fields.text("tenant", patterns.TENANT),
            version=fields.text("version", patterns.VERSION),
            status=status,
            reason=reason,
            retryable=fields.flag("retryable"),
            seconds=fields.at_least("seconds", 0),
            cpu_seconds=fields.at_least("cpu_seconds", 0),
            archive=archive,
            metrics=fields.numbers("metrics"),
            card=fields.mapping("card"),
            preview=fields.mapping("preview"),
            files={
                name: FileDigest.of(fields.part(f"files.{name}", digest))
                for name, digest in files.items()
            },
            others=fields.others(*_KNOWN),
        )

    def document(self) -> dict[str, Any]:
        """The outcome as JSON values; ``archive`` and ``files`` are absent where there are none."""
        document: dict[str, Any] = {
            **self.others,
            "format": FORMAT,
            "task": self.task,
            "tenant": self.tenant,
            "version": self.version,
            "status": self.status,
            "reason": self.reason,
            "retryable": self.retryable,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "metrics": dict(self.metrics),
            "card": dict(self.card),
            "preview": dict(self.preview),
        }
        if self.archive is not None:
            document["archive"] = self.archive.document()
        if self.files:
            document["files"] = {name: digest.document() for name, digest in self.files.items()}
        return document
