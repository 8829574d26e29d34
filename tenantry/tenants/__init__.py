"""A tenant's move to another tier, and the end of a workload."""
