"""From a request to a served model, for a pack of tenants at a time."""
