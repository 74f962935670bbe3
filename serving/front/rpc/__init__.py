"""gRPC: the Open Inference Protocol v2 at a port of its own, by the same code as over HTTP. Needs the extra `grpc`.

On the way in: `port` listens → `connection` takes the `frames` of a client, whose headers `header_blocks` reads →
`methods` are found, and each call is a `stream` → `calls` admits it, waits for its message, and tells its answer or
error by the `codes` → `inference` or `health`, whose messages are those of `messages`, once `field_count` has looked at
them. On the way out the `outbox` sends what a client takes; `spare_frames` bounds what else it may send, and a
`graceful_close` loses no call. No other file of a front imports hpack or protobuf.

HTTP/2 is spoken here and not by gRPC's own library, which takes several times as long for a call; see bench/NOTES.md,
gRPC beside HTTP.
"""
