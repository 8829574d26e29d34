"""Customers' consumption files: read within bounds, checked, and laid out in weeks of a clock."""
