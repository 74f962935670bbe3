"""Leads a rollout: from what fronts counted to a verdict, and from verdicts to the next step.

confidence   bounds of a share that hold however often one looks
verdict      from both sides' counts to pass, fail or inconclusive, per guard
"""
