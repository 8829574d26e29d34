"""Application Auto Scaling: scalable targets, scheduled actions, and what they changed."""
