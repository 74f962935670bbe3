"""Benchmark: forward passes of Headwaiter's engine beside ONNX Runtime, OpenVINO and bare torch, in turns.

comparison  installs, exports, starts a process for each runtime, has them measured in turns, prints the tables
quantize    the other runtimes' models in int8
own         how Headwaiter does
worker      the process of a runtime: batches of token ids in, seconds and labels out
loaders     how each other runtime runs a batch

There is no server and no tokenizer, so the benchmark compares kernels and execution graphs. Headwaiter packs the rows
of a batch; the other runtimes pad them.
"""
