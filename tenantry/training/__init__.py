"""Packed training: the job, its state, its duration, its outcomes, and when a model is made
anew."""
