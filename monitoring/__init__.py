"""What is measured and how it is shown. The files, in the order that data passes them:

metrics      every metric, declared once; the instruments that count; the text of /metrics
queries      PromQL made from the declarations
panels       what the dashboard shows, in which rows
dashboard    the Grafana dashboard as JSON; `python -m monitoring.dashboard` writes the committed file
grafana/     that file, and provisioning files for a Grafana that reads this folder
prometheus/  a scrape configuration

To watch a server on this machine, from the repository's root:

    prometheus --config.file=monitoring/prometheus/prometheus.yml
    export GF_PATHS_PROVISIONING=$PWD/monitoring/grafana/provisioning
    export HEADWAITER_DASHBOARDS=$PWD/monitoring/grafana/dashboards GF_SERVER_HTTP_PORT=3001
    grafana server --homepath <Grafana's folder>

Grafana and a server both take port 3000 unless told, so Grafana gets another here.
Importing the package does not import prometheus_client: that must happen after PROMETHEUS_MULTIPROC_DIR is set.
"""
