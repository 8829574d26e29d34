"""Asynchronous endpoints: the queue, what comes in, and what is told of results."""
