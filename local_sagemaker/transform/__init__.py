"""Batch transform jobs, and the records that they split and join."""
