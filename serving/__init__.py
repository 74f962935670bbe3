"""A request's way. The files, in the order that data passes them:

settings, errors     what can be set, what can go wrong
cli                  the command line
service              the BentoML services: fronts and the manager
app, http            HTTP: the data plane before BentoML's own routes
front, view, link    choose the version, encode, send rows to an engine, decode
request              body ↔ checked request, answers ↔ answer
text, tasks/         one file a task: encode and decode here, forward in the engine
messages             what crosses between front and engine
engine, queue        one process a version and device: queue, batch, forward, reply
loading, model       load, check and measure; rows → padded batch → small arrays
grouping             which of the waiting lengths share a batch
cost, learned        what a forward pass costs: as measured at warm-up, as learned from the batches that ran
predictor, pyfunc    the same model in this process, for checks and for MLflow
agreement            whether two answers say the same
manager, policy      follow the registry: decide, start and stop engines, publish
holding, process     a version that is held, an engine process that is watched
report, table        what engines tell the manager, and the manager the fronts
metering, scrape     what is counted, and /metrics
demo/                the data set and the fine-tuning of the demo
"""
