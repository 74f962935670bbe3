"""The demonstration's own model: requests to a support desk, sorted by what the customer wants.

Files, in the order that data passes them: `templates.toml` and `phrases` (what customers say, and how), `held_out`
(sentences that training never sees), `dataset` (labelled examples made of these), `training` (fine-tunes a pretrained
encoder on them and saves two versions), `server` (that they are served by) and `tour` (the demonstration).

Of rollouts: `candidates` (versions with faults), `traffic` (clients), `latency` (from the metrics), `rollout` and
`rollout_tour`.
"""
