"""Endpoints: where models are served, their capacity, and how a tenant's model is asked."""
