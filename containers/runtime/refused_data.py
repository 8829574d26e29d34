"""What a family's preparation raises: data that cannot become a model, told to the tenant's owner."""


class RefusedData(ValueError):  # noqa: N818 - the event has a name of its own; the sentence is its message
    """Data that cannot be trained on: what is wrong, where (a column, file or parameter), and how to cure it."""

    def __init__(self, reason: str, field: str, cure: str) -> None:
        super().__init__(reason, field, cure)
        self.reason = reason
        self.field = field
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.reason} {self.cure}"
