"""Serving behind NVIDIA Triton: one Triton model that holds the base and fetches tenants' adapters
itself."""
