"""The HTTP front: one port, the wire formats of both services, and the supported members of
requests."""
