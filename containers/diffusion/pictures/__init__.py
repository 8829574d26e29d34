"""Tenants' pictures: decoded, checked, prepared, and shown to people."""
