"""Serving on AWS Inferentia2: the base compiled ahead of time, with the tenants' adapters as inputs
of the compiled graph."""
