"""What every error of the product is."""


class TenantryError(Exception):
    """Something that Tenantry raises on purpose; its message is a sentence for people."""
