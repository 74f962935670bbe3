"""The client of the engine that `own_cost` measures: `python -m bench.own_feed ADDRESS ROWS SECONDS BATCH_KEY`.

It keeps batches sent and prints how many rows were answered. It loads neither torch nor transformers.
"""

import sys
import time

import msgspec
import zmq

from serving.wire.messages import FromEngine, Row, Submit, TokenDeltas

TOKENS = 12
"""Of each row."""
AHEAD = 2
"""Batches that are sent and not answered."""


def feed(address: str, rows: int, seconds: float, batch_key: str) -> int:
    """Send batches of `rows` for `seconds`; the number of rows that were answered."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(address)
    tokens = b"\5\0\0\0" * TOKENS
    decoder, sent, answered = msgspec.msgpack.Decoder(FromEngine), 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or answered < sent:
        while time.monotonic() < end and sent - answered < AHEAD * rows:
            batch = [Row(number, TOKENS, tokens, b"", batch_key, 1e12) for number in range(sent, sent + rows)]
            socket.send(msgspec.msgpack.encode(Submit(batch)))
            sent += rows
        message = decoder.decode(socket.recv())
        if not isinstance(message, TokenDeltas):  # empty: the engine looks whether its fronts live
            answered += len(message.ids)
    return answered


if __name__ == "__main__":
    print(feed(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
