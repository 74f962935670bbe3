"""The benchmarks: `python -m bench` measures Headwaiter, its peers and the bare forward limit in one run.

The files, in the order that data passes them:

__main__           the command line: which benchmarks, for how long
models             the model folders: one of negligible cost, one real encoder; `texts` and `prompts` are asked of them
processes          starts a server, waits until it is ready, stops it with all of its children
headwaiter_server  Headwaiter, logged, promoted and served through its command line
peers/             what it is compared with: plain BentoML, a bare ASGI echo, and other model servers
load, connection   the load generator, a process of its own, and one of its connections; `streams` for streamed texts
limit, reference   the bare forward limit, a process of its own, and its best setting, measured around each server
results            what these report, and how they are run
report, page       Markdown tables, and the parts of docs/reliability.md that `--write` replaces

Speed of requests: `request_rate`, `forward_share`, `latency`, `batch`, `flood`, `overload`, `grpc_cost`, `generation`
(beside `bare_generation`), `dtypes`, `text_dtypes`, `runtimes/`, `peer_comparison`, `spark`, `container` (in a
`control_group`).
What a part costs: `own_cost` (with `own_feed`), `front_cost` (with `front_process` and `stage_sampler`),
`metrics_cost`, `batch_choice` (with `batching_rules`), `logging_time` (beside `bare_saving`).
Start, versions and memory: `start_time` (beside `bare_classifier`), `swap_latency` (beside `load_floor`), `residency`,
`fleet`, `rollout`, `topics` for versions with trained heads.
Faults: `chaos` (its `faults`, the `gate` before a registry, the `stepped_clock` and the `ledger` of every request),
`kills`, `soak`, `bodies`, `fuzz` (with `fuzz_cases`, `fuzz_bytes` and `fuzz_search`).
A GPU: `gpu`, with `gpu_plan`, `gpu_engines`, `gpu_client`, `gpu_limit` and `gpu_card`.

One text per HTTP request everywhere. Everything runs on this machine, so the load generator takes its share of the
cores from the servers, the same share for each.
"""
