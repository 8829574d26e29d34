"""Asynchronous endpoints: invocations, the queue, and notifications of results."""
