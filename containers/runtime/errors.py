"""The base of every error of the containers."""


class ContainerError(Exception):
    """An error that a container raises on purpose; its message is a sentence for people."""
