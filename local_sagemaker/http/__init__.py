"""The front: one port, the wire formats of both services, and what their requests may hold."""
