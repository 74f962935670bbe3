"""Process 3: reads the registry, starts and stops engines, and publishes the routing table."""
