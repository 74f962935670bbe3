"""One process that reads the registry, starts and stops engines, and publishes the routing table."""
