"""Packed training: the job, its state, how long it takes, what it left, and when a model is made
anew."""
