"""The product: a machine-learning model for every tenant, on SageMaker. Nothing here imports
Dagster."""
