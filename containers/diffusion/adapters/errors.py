"""The error of files that are no usable adapter."""

from containers.runtime.errors import ContainerError


class UnusableAdapterError(ContainerError, ValueError):
    """The files are not an adapter for this base. The message names the fault; ``code`` is its
    kind, for programs."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code
