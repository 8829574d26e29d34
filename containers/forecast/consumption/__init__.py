"""Customers' consumption files: read within bounds, checked, and arranged in weeks of the local
clock."""
