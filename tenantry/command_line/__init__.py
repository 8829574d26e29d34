"""The command line ``tenantry``, by which an operator looks at the fleet and changes it."""
