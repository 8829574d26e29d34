"""Pipelines: their definitions, the values of references, and executions."""
