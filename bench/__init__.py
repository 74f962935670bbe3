"""The benchmarks: `python -m bench` measures Headwaiter, its peers and the bare forward limit in one run.

The files, in the order that data passes them:

__main__           the command line: which benchmarks, for how long
models             the two model folders: one of negligible cost, one real encoder
texts              the text sets, generated from a word list, the same ones every time
processes          starts a server, waits until it is ready, stops it with all of its children
headwaiter_server  Headwaiter, logged, promoted and served through its command line
peers              what it is compared with: plain BentoML, a bare ASGI echo, and other model servers
load               the load generator, a process of its own
connection         one of its connections
limit              the bare forward limit, a process of its own
results            what those two report, and how they are run
reference          the limit at its best setting, measured around each server
request_rate       benchmark (a): requests/s at a negligible model
forward_share      benchmark (b, c): sequences/s as a share of the bare forward limit
prompts            what the model that generates goes on from
streams            the client of streamed texts, a process of its own
bare_generation    what transformers writes without a server, a process of its own
generation         benchmark (d): tokens/s and time to the first token
swap_latency       benchmark (e): latency while versions change, and how soon a moved alias is served
load_floor         a fork, load and trace without a server, which a swap is compared with
residency          50 models of which 8 fit into memory: hits, latency, and the memory that engines take
fleet              what a fleet's polls cost the registry, from 50 pollers of a real MLflow server
spark              rows/s on Spark, beside plain mlflow.transformers
batch_choice       how far batches are from the best possible grouping, by simulation
batching_rules     the ways to choose a batch that are compared there, and the best possible
topics             texts of six topics, and the head that is trained for them
dtypes             forward passes in float32, bfloat16 and int8
runtimes           the engine's forward passes beside other runtimes'
front_cost         the processor time of a request in a front by stage, and what several fronts answer
front_process      such a front, a process of its own
stage_sampler      divides a process' time among stages
peer_comparison    benchmark (f): requests/s, latency, memory and start beside other model servers
gpu                `python -m bench.gpu`: an engine's socket against the bare forward limit and a plain pipeline
gpu_card           the GPU and what is installed, as `gpu_check.sh` prints them beside tests and figures
gpu_client         its load, processes that speak to the engine as a front does
report             Markdown tables
page               the parts of docs/reliability.md that `--write` replaces

One text per HTTP request everywhere. Everything runs on this machine, so the load generator takes its share of the
cores from the servers, the same share for each.
"""
