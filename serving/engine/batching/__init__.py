"""Which of the waiting rows share a forward pass, and what it costs."""
