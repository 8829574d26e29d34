"""The main job of ``make run``: the local cloud, Dagster, and a product's tenants uploading their
data, for a person to watch."""
