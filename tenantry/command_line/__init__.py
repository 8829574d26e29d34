"""The command line ``tenantry``: what an operator looks at, and what an operator changes."""
