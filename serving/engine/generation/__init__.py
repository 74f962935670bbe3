"""Texts are written token by token, on the engine's side. Why not transformers' own continuous batching: it draws all
rows from one generator, so that a seed gives another text in other batch; it is wrong for models whose attention it
cannot replace; and its thread may die behind a manager that looks alive. Here one loop owns everything.

engine        the loop of an engine whose task generates
scheduler     which rows are decoded and which wait, and what the fronts are told
sequence      one row from its prompt to its last token
decode_batch  the rows that take their steps together
decoder       a model's rows: prefill, one step for all, removal
sequential    the same row by row, for models that cannot be decoded together
kv_cache      keys and values of rows that come and go
sampling      logits → each row's next token
beam_search   beams, by `generate` itself
verification  which decoder writes what `generate` does
step_graph    a step as a TorchScript graph
factory       a scheduler for a model, in a memory budget
"""
