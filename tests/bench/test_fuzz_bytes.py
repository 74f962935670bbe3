"""Decoders refuse bytes that they cannot read, and only by errors of their own: a short form of `bench fuzz`.

`HEADWAITER_FUZZ_CASES` is the number of bodies for each decoder.
"""

import os
import warnings

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.fuzz_bytes import SEEDS, TARGETS, attempt
from serving.runtime.logs import quiet_pillow
from serving.wire.messages import FromEngine

pytestmark = pytest.mark.slow


CASES = int(os.environ.get("HEADWAITER_FUZZ_CASES") or 150)
piece = st.binary(max_size=6) | st.sampled_from(
    [
        b"\xff" * 8,
        b"\0" * 8,
        b'"',
        b"null",
        b"1e999",
        b"-1",
        b"[" * 2000,
        b'{"a":' * 2000,
        b"\\ud800",
        b"\r\n",
        b",",
        b"\0\xff",
    ]
)


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Draw bytes that a decoder reads, with a few parts replaced, added or left out."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(piece) + data[at + draw(st.integers(0, 8)) :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_takes_any_bytes(name: str) -> None:
    @settings(
        max_examples=CASES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(data=st.binary(max_size=200) | mutated(list(SEEDS[name])))
    def run(data: bytes) -> None:
        with warnings.catch_warnings():
            quiet_pillow()  # as a front does
            attempt(name, data)

    for seed in SEEDS[name]:
        TARGETS[name](seed)  # none of them is refused
    run()


def test_a_message_whose_array_has_no_plain_dtype_is_not_decoded() -> None:
    """numpy parses a dtype with a comma as Python's syntax."""
    message = b"\x96\x00\x91\x01\x91\x01\x91\x93\xa7floa,02\x92\x01\x01\xc4\x00\xcb?\xb9\x99\x99\x99\x99\x99\x9a\xc3"
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value 'floa,02'"):
        msgspec.msgpack.decode(message, type=FromEngine)
    TARGETS["messages"](message)
