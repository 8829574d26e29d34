"""The base class of the product's errors."""


class TenantryError(Exception):
    """An error that Tenantry raises on purpose; its message is a sentence for people."""
