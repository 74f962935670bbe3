"""Token-by-token generation in an engine.

transformers' own continuous batching is not used. It draws all rows from one random generator, so that a seed gives
another text when other rows share the batch. It is wrong for models whose attention it cannot replace. And its thread
can die behind a manager that still looks alive. Here one loop owns everything.

engine        the loop of an engine whose task generates
scheduler     all sequences of the engine
runner        the model's forward passes over those that are running
replies       what is sent to the fronts
waiting       the sequences that wait, in order of priority
admission     which of them enter a batch before the next step
sequence      one row from its prompt to its last token
decode_batch  the sequences that a decoder steps together
decoder       a model and its rows: prefill, one step for all rows, removal; `causal_decoder`, `seq2seq_decoder`
sequential    the same row by row, for models that cannot be batched
uncached      the same without a cache, for models that have none
kv_cache      keys and values of rows that come and go
prefix_cache  keys and values that prompts have in common
sampling      logits → each row's next token
beam_search   beams, by `generate` itself
verification  which decoder generates what `generate` does
step_graph    a step as a TorchScript graph
int8_texts    what int8 is compared by: the tokens of greedy texts, and the time that writing takes
factory       a scheduler for a model, in a memory budget
"""
