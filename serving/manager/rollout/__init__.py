"""Leads a rollout: from what fronts counted to a verdict, and from verdicts to the next step.

confidence   bounds of a share that hold however often one looks
prometheus   what a Prometheus says of guards that are queries
verdict      from both sides' counts to pass, fail or inconclusive, per guard
steps        from verdicts to what the leader does next
cycle        reads the registry, sums counts, leads: one turn of a replica
annotations  marks in Grafana
keeper       runs the cycles, and tells the manager what to load and how to share requests out
"""
