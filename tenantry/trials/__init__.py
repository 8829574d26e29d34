"""Trials: a second version answers a share of a tenant's requests, a verdict, and the end."""
