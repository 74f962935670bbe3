"""Texts are written token by token, on the engine's side.

whole    a row through transformers' own `generate`, from start to end
"""
