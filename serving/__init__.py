"""The server. Its folders, in the order of a request; `tests/test_layering.py` says who may import whom.

service          BentoML's face: the fronts and the manager as its services
front/           process 1: HTTP, tokenizing, routing, decoding
  app, fast_path, asgi   the data plane before BentoML's routes; a plain request's short way; reading and answering
  protocols/             one file a protocol: its routes, its bodies, the shape of its errors
  front                  choose the version, encode, send rows to an engine, decode; the same for streams
  routing, loaded_version, engine_link   follow the routing table: what is loaded, which version is live, its engines
  text_stream            texts as they come
  webhook                MLflow's webhooks make the manager look at once
  request_context, request_log, tracing, meter, metrics_page, model_description   what is known, logged and shown
tasks/           one file a task: encode and decode in a front, forward in an engine; base/ is what tasks share
processors/      inputs to rows, token ids to text
wire/            what crosses a process boundary: messages, orders and reports, the routing table, a version's states
engine/          process 2: one version on one device, `python -m serving.engine ORDER`
  __main__, loading, warmup, optimize    wait for the order, load and check, measure, choose the fastest form
  engine, model, forward_pass, parallel  the loop; rows to a padded batch to small arrays; passes side by side on a CPU
  batching/              which of the waiting rows share a forward pass, and what it costs
  optimizations/         faster forms of a model, each checked against the model itself
  generation/            texts token by token: sequences are admitted, take steps, leave
  predictor, answer_check, baseline      the same model in any process; whether two answers say the same
manager/         process 3: follow the registry, decide (policy), start and stop engines, publish the routing table
runtime/         what every process has: its log, its priority, the server that it lives with, its metrics
client/          a running server from outside: over HTTP, and as MLflow's deployments target
commands/        the command line
pyfunc           MLflow's face: the artifact as a python_function
evaluation       a version's score on labelled examples, before it is promoted
settings, errors what can be set, what can go wrong
demo/            the data set and the fine-tuning of the demo
"""
