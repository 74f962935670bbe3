"""Shared by the tasks: the interface of a task, requests, columns, padding, generation and its texts, scores."""
