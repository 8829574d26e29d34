"""How many instances an endpoint should have."""
