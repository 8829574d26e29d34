"""The error of a family's preparation: data that cannot become a model, with a message for the
tenant's owner."""

from contracts.errors import ContractError


class RefusedDataError(ContractError, ValueError):
    """Data that cannot be trained on.

    ``reason`` is a sentence that names the fault, and quotes nothing of the tenant's data.
    ``field`` is the column, file or parameter. ``cure`` is a sentence with the remedy. ``code``
    names the kind of refusal for programs, as in ``timestamp_unreadable``; it stays the same when
    the sentences change.
    """

    def __init__(self, reason: str, field: str, cure: str, code: str = "data_unusable") -> None:
        super().__init__(reason, field, cure, code)
        self.reason = reason
        self.field = field
        self.cure = cure
        self.code = code

    def __str__(self) -> str:
        return f"{self.reason} {self.cure}"
