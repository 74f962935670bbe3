"""A request's way. The files, in the order that data passes them:

settings, errors     what can be set, what can go wrong
cli, console         the command line
version_commands     promote, rollback, history
evaluation, scoring  a version's score on labelled examples, before it is promoted
service              the BentoML services: fronts and the manager
plain, app, http     HTTP: a plain request's short way; the data plane before BentoML's own routes
protocols/           one file a protocol: its routes, its bodies, the shape of its errors
front, link          choose the version, encode, send rows to an engine, decode
routes, view         follow the routing table: what is loaded, and which version is live
columns              tables and tensors of texts → inputs
hooks                MLflow's webhooks make the manager look at once
request              body ↔ checked request, answers ↔ answer
chat                 messages → prompt, by the tokenizer's template
text, tasks/         one file a task: encode and decode here, forward in the engine
messages             what crosses between front and engine
engine, queue        one process a version and device: queue, batch, forward, reply
writing, decoding/   the same where texts are written: rows join, take steps, leave
generation, stream   the settings of texts, and texts whole or as they come
detokenizer          token ids as they come → text as it goes out
loading, model       load, check and measure; rows → padded batch → small arrays
execution            how a model runs: packed (without padding), narrowed (its last layer for first tokens only),
                     traced or replayed (a graph), or as it is; checked
lanes                forward passes side by side on a CPU
attention            within each row of a line of tokens
products             weights in the layout that a CPU multiplies fastest
grouping             which of the waiting lengths share a batch
cost, learned        what a forward pass costs: as measured at warm-up, as learned from the batches that ran
predictor, pyfunc    the same model in this process, for checks and for MLflow
agreement            whether two answers say the same
headstart            the first engine's process starts before BentoML's
manager, policy      follow the registry: decide, start and stop engines, publish
holding, process     a version that is held, an engine process that is watched
report, table        what engines tell the manager, and the manager the fronts
machine              what a reader of a report needs to know of the machine
metering, scrape     what is counted, and /metrics
remote, status       a running server over HTTP, and what it serves, for people
deployments          a running server as MLflow's deployments target; deploying reads what is asked of it
demo/                the data set and the fine-tuning of the demo
"""
