"""What the tasks share: the interface of a task, requests, columns, padding, generation and its texts, scores."""
