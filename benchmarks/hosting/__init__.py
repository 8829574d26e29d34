"""Hosting shapes beside each other: `python -m benchmarks.hosting`."""
