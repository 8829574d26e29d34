"""What every error of the containers is."""


class ContainerError(Exception):
    """Something that a container raises on purpose; its message is a sentence for people."""
