"""Deliberate faults: the plan and its client."""
