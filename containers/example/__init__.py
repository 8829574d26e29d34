"""The smallest complete container: each tenant's usual value on each weekday."""
