"""The base model that all tenants share, with its encoders and sampler."""
