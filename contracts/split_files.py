"""What the split of a file of many customers leaves: ``tenants.json``, and a folder for each tenant
with its rows in ``data.csv``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from contracts import patterns
from contracts.documents import Fields
from contracts.limits import FORMAT, MAX_TASKS

TENANTS_FILE: Final = "tenants.json"
DATA_FILE: Final = "data.csv"
CUSTOMERS: Final = "customer_id"
"""The column of customers, unless another is named."""
MAX_TENANTS: Final = MAX_TASKS
TENANTS_BYTES: Final = 64 * 1024 * 1024
CUSTOMER_CHARACTERS: Final = 200
_DOCUMENT: Final = TENANTS_FILE
_LEGIBLE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,45}")


@dataclass(frozen=True)
class SplitTenant:
    """A tenant of the file. ``customer`` is the id that the file gives it."""

    tenant: str
    customer: str
    rows: int


def tenant_of_customer(customer: str) -> str:
    """A tenant's id for a customer's: the same where that is valid, else one with a digest.

    The digest keeps names and addresses out of ids, which travel to logs. What the id is in small
    letters stays legible before it. The id depends on the customer's alone, whatever else is in the
    file: rows of another day must not reach another tenant.
    """
    if patterns.TENANT.fullmatch(customer):
        return customer
    digest = hashlib.sha256(customer.encode()).hexdigest()[:16]
    legible = customer.lower().replace("_", "-")
    beginning = legible if _LEGIBLE.fullmatch(legible) else "customer"
    return f"{beginning}-{digest}"


def document(tenants: Sequence[SplitTenant]) -> dict[str, Any]:
    """The content of ``tenants.json``."""
    return {
        "format": FORMAT,
        "tenants": {
            one.tenant: {"customer": one.customer[:CUSTOMER_CHARACTERS], "rows": one.rows}
            for one in tenants
        },
    }


def parse(content: bytes) -> list[SplitTenant]:
    """The tenants of a ``tenants.json``, by id. Raises ``MalformedDocumentError``."""
    fields = Fields.read(content, _DOCUMENT, TENANTS_BYTES)
    fields.require_format()
    listed = fields.mapping("tenants")
    if not 0 < len(listed) <= MAX_TENANTS:
        fields.refuse("tenants", f"must have 1 to {MAX_TENANTS} tenants")
    found = []
    for tenant, value in sorted(listed.items()):
        if not patterns.TENANT.fullmatch(tenant):
            fields.refuse("tenants", "has a name that is no tenant's id")
        one = fields.part("tenants", value)
        customer, rows = one.values.get("customer"), one.values.get("rows")
        if not isinstance(customer, str) or len(customer) > CUSTOMER_CHARACTERS:
            one.refuse("customer", f"must be a text of at most {CUSTOMER_CHARACTERS} characters")
        if type(rows) is not int or rows < 1:
            one.refuse("rows", "must be a whole number of at least 1")
        found.append(SplitTenant(tenant, customer, rows))
    return found
