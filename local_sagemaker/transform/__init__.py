"""Batch transform jobs, and the records they split and join."""
