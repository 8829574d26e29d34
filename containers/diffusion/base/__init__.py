"""The base model that all tenants share, and what its encoders and sampler do."""
