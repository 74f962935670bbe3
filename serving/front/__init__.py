"""One process that answers requests: HTTP, tokenizing, routing, decoding. No torch, mlflow or transformers."""
