"""Faults on purpose: the plan, and a client of it."""
