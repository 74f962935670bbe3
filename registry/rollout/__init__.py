"""A rollout: a candidate gets a growing share of a model's requests, guards watch it. The files, in their order:

guards   what a candidate must keep to, as text
plan     the steps, as text, and the record of a rollout: written once, when it starts
state    the tags of a registered model that make up a rollout, and what follows from them
control  start, change and end a rollout in the registry, and lead it
"""
