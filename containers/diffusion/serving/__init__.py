"""Drawing for many tenants with one base on one device."""
