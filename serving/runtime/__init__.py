"""What every process of a server has: log, metrics, priority, limits, and the server process that it ends with."""
