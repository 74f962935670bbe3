"""An engine: one process for one version on one device. It owns the model, the device and the queue.

`python -m serving.engine ORDER` loads what the order says, reports and serves. Only modules of this folder import torch
and transformers at module level.

template       the process that engines are forked from; its `early_imports` of `large_modules`
__main__       an engine's process: order, lease, signals
process_state  process-global state of torch and transformers
loading        order → a model that is loaded, checked, optimised and measured
assembly       which model, optimisation and loop a task gets
model          rows → one forward pass → arrays
vector_layers  the modules that a pooled vector passes
predictor      request → answer in this process; checks the contract's example
local_engine   the engine in a thread of this process: many requests → answers, in batches
answer_check   whether two answers agree, within `tolerances`
batch_invariance  which rows may share a forward pass: proved with `module_state` and `left_padding`
row_limit      the longest row that the model takes
probe_lengths  lengths of the rows that `batch_invariance` and `row_limit` run
optimize       the execution form of a model, from `optimizations`, compared with `reference`
int8           layers in int8, and their gate on a sample or on `generated_inputs`; of texts in `generation`
warmup         threads, cost and token budget, measured with `timing`
growth         memory that the engine will take beyond what it has when ready
measurements   what was measured, for later engines; `kept_graph`, a graph that was proved: both `kept_record`s
socket_loop    the loop around the socket; `heart` writes the heartbeat
engine         the loop's steps for forward passes: `batching`, `forward_pass`, `parallel`
recheck        when the loop looks again whether its model works
generation     the loop's steps for texts, token by token
meter          an engine's metrics
baseline       the distribution of answers that a contract records
"""
