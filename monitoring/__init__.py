"""What is measured and how it is shown. The files, in the order that data passes them:

metrics      every metric, declared once; the instruments that count; the text of /metrics
dashboard    the Grafana dashboard, built from the declarations; `python -m monitoring.dashboard` writes its JSON
grafana/     the committed dashboard, and provisioning files for a Grafana that reads this folder
prometheus/  a scrape configuration

Importing the package does not import prometheus_client: that must happen after PROMETHEUS_MULTIPROC_DIR is set.
"""
