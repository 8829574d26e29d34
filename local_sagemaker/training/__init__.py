"""Training jobs: their layout, checkpoints and warm pools."""
