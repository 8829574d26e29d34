"""Hosting shapes: the ways in which SageMaker can serve a workload's models."""
