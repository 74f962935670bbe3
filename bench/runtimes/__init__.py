"""Benchmark: forward passes of Headwaiter's engine beside ONNX Runtime, OpenVINO and bare torch, in turns.

comparison  installs, exports, starts a process for each runtime, has them measured in turns, prints the tables
quantize    the other runtimes' models in int8
worker      the process of a runtime: batches of token ids in, seconds and labels out
loaders     how each runtime runs a batch

No server, no tokenizer: what is compared is kernels and the graphs around them. Headwaiter packs the rows of a batch,
the others pad them.
"""
