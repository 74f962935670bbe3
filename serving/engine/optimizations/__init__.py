"""Faster forms of a model, each checked against the model as transformers has it before it serves."""
