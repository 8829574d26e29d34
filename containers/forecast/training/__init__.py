"""Training many customers' models in one job."""
