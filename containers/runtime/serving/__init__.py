"""The model server of every family."""
