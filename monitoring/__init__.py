"""Metrics, their exposition, and the dashboards and rules made from them. The files in the order of the data:

metrics       every metric, declared once
instruments   the metrics of one process as things that count
store         where their numbers are: memory-mapped files, cheap enough for the hot path
exemplars     the traces of the requests that fell into a histogram's buckets last
merge         all processes' numbers, read and summed; what ended processes counted is kept
gpus          what NVIDIA's library says of the GPUs
exposition    the content of /metrics
text_formats  its text: Prometheus' own and OpenMetrics
queries       PromQL made from the declarations
panels        the parts of a dashboard
objectives    what the service promises
recordings    recording rules
alerts        alerting rules; their runbooks are in docs/runbooks
rules         both as a rule file
dashboards/   the five dashboards
grafana_json  a dashboard as Grafana's JSON
export        all of that as files; `python -m monitoring.export` writes the committed ones
prometheus/, alertmanager/, grafana/   those files

To watch a server on this machine, from the repository's root:

    prometheus --config.file=monitoring/prometheus/prometheus.yml
    GF_PATHS_PROVISIONING=$PWD/monitoring/grafana/provisioning GF_SERVER_HTTP_PORT=3001 grafana server --homepath …

Grafana and a server both take port 3000 unless told, so Grafana gets another here.
"""
