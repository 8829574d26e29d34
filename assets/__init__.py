"""The Dagster assets of each workload, thin over ``tenantry``."""
