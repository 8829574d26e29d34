"""Containers as processes on this machine."""
