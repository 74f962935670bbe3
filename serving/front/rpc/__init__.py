"""gRPC: the Open Inference Protocol v2 at a port of its own, by the same code as over HTTP. Needs the extra `grpc`.

`port` listens → `calls` admits a call, reads its message (in `reads`) and tells its answer or error → `inference` or
`health`, whose messages are those of `messages`, once `field_count` has looked at them. No other file of a front
imports grpc or protobuf.
"""
