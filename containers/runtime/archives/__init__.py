"""Models' archives."""
