"""One process for one version on one device: it owns the model, the device and the queue.

`python -m serving.engine ORDER` waits for its order, loads, reports and serves. Only modules of this folder import
torch and transformers at module level.
"""
