"""The server. Its folders, in the order of a request; `tests/test_layering.py` says who may import whom.

service          the BentoML services: the fronts and the manager
front/           process 1: HTTP, tokenizing, routing, decoding
  connection, connection_guard, connection_choice   deadlines and bounds of every connection, before anything is parsed
  app, fast_path, asgi   the data plane before BentoML's routes; the fast path of plain requests; HTTP over ASGI
  access, host_names     who may ask, and by which name of the server: before a body is read
  protocols/             one file for each protocol: routes, bodies, the form of errors
  openapi/               the description of all routes, as JSON
  rpc/                   the Open Inference Protocol over gRPC, at a port of its own
  front, request_tracker count and log the request, and make another attempt where an engine was lost
  attempts               choose the version, encode, send rows to an engine, decode
  routing, loaded_version, engine_link   follow the routing table: what is loaded, which version is live, its engines
  turns, admission       what takes long leaves the event loop; what a queue has no room for is refused
  held_requests, waiter  requests that wait for an engine to come, or for its answer
  rollout/               the side of each request of a rollout, and shadows at the candidate
  text_stream            streams: tokens from an engine, deltas of text to the client
  webhook                MLflow's webhooks make the manager poll the registry at once
  request_context, request_log, tracing, meter   a request's id and times; logs, spans, metrics
  metrics_page, model_description            `/metrics`; a model in `GET /models`
  administration         `/admin`: an operator's changes in the registry, through the manager
  ui_page                `/ui`: the files of `ui/`, held in memory
  health, disconnects    liveness and readiness; clients that leave before their answer
tasks/           one file for each task: encode and decode in a front, forward in an engine; base/ is shared by them
processors/      inputs to rows, token ids to text
wire/            records that cross a process boundary: messages, orders and reports, routing table, version states
engine/          process 2: one version on one device, `python -m serving.engine ORDER`
  template               imports what every engine needs, and forks an engine for each order
  __main__, loading, warmup, optimize    read the order, load and check, measure, choose the fastest form
  engine, model, forward_pass, parallel  the loop; rows to a padded batch to small arrays; passes side by side on a CPU
  batching/              which waiting rows share a forward pass, and its cost
  optimizations/         faster execution forms, each checked against the plain model
  generation/            continuous batching: sequences are admitted, decoded token by token, removed
  predictor, answer_check, baseline      the same model in any process; whether two answers agree
  local_engine           the engine in a thread of any process, for many inputs at once
manager/         process 3: polls the registry, decides (policy), starts and stops engines, publishes the routing table
runtime/         shared by every process: log, priority, limits of the container, tie to the server process, metrics
client/          clients of a running server: over HTTP, and MLflow's deployments target
kubernetes/      the files by which a cluster runs a server
commands/        the command line
pyfunc           the artifact as MLflow's python_function
model_signature  the signature by which MLflow knows its inputs, params and outputs
bulk             a model on other engines: Ray Data and Spark
evaluation       a version's score on labelled examples, before it is promoted
settings, setting_values, errors   HEADWAITER_* variables and what they mean; the error tree with status and reason
demo/            the data set and the fine-tuning of the demo
"""
