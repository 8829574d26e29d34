"""Training many tenants' adapters in one job, and judging them by their pictures."""
