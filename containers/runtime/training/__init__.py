"""The packed-training loop of every family."""
