"""Metrics and alarms, as CloudWatch keeps and answers them."""
