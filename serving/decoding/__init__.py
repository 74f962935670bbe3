"""Texts are written token by token, on the engine's side. Why not transformers' own continuous batching: it draws all
rows from one generator, so that a seed gives another text in other company; it is wrong for models whose attention it
cannot replace; and its thread may die behind a manager that looks alive. Here one loop owns everything.

check      which decoder writes what `generate` does
decoder    a model's rows: they join, take steps together, leave
single     the same row by row, for models that cannot be written together
cache      keys and values of rows that join and leave
sampling   logits → each row's next token
search     beams, by `generate` itself
entry      a row on its way
writer     who joins, who leaves, what is told
making     a writer for a model, in a memory budget
"""
