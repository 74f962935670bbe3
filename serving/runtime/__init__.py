"""What every process of a server has: its log, its priority, the server process that it lives with, its metrics."""
