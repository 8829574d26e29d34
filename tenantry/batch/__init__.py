"""Scheduled predictions: one transform job asks the champions of many tenants."""
