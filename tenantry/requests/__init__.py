"""The models owed to tenants: the queue, the order of claims, and the packs that share a training
job."""
