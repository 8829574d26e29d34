"""Models, endpoint configurations, endpoints, their instances and invocations."""
