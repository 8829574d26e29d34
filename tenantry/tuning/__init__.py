"""Finds settings of serving containers by measuring them."""
