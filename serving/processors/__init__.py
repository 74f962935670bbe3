"""Inputs to rows of token ids or pixels, and token ids back to text. No torch, no transformers at module level."""
