"""Serverless variants: execution environments in the place of instances."""
