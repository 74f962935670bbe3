"""Shared by every process of a server: log, metrics, priority, limits, and the server process that it ends with."""
