"""The errors for documents that break the agreement."""

from __future__ import annotations


class ContractError(Exception):
    """One side's document is not as both sides agreed."""


class MalformedDocumentError(ContractError, ValueError):
    """A document cannot be read. The message names it and the field; it quotes no value.

    ``document`` is its name for people. ``field`` is the place of the fault in it, "" for all of
    it.
    """

    def __init__(self, document: str, field: str, problem: str) -> None:
        said = f"{document}: {field} {problem}" if field else f"{document}: {problem}"
        super().__init__(said)
        self.document = document
        self.field = field
        self.problem = problem
