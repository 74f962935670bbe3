"""Frames and headers of HTTP/2: whatever pieces they come in, and whatever else comes, only rules are told broken."""

from contextlib import suppress

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.front.rpc import frames
from serving.front.rpc.frames import PREFACE, BrokenRule, Frame, FrameReader, frame, read_settings, without_padding
from serving.front.rpc.header_blocks import HeaderReader, block_of

pytestmark = pytest.mark.slow


HEADERS = st.lists(st.tuples(st.binary(min_size=1, max_size=200), st.binary(max_size=300)), max_size=8)
NAMES = st.sampled_from([b":path", b":method", b"te", b"user-agent", b"x-request-id", b"grpc-timeout"])
FRAMES = st.builds(
    Frame, st.integers(0, 255), st.integers(0, 255), st.integers(0, frames.MAX_WINDOW), st.binary(max_size=300)
)


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(1, 200)))
def test_frames_are_the_same_in_any_pieces(sent: list[Frame], sizes: list[int]) -> None:
    data = PREFACE + b"".join(frame(*each) for each in sent)
    reader, got, at = FrameReader(), [], 0
    for size in [*sizes, len(data)]:
        got += reader.read(data[at : at + size])
        at += size
    assert got == sent


@given(st.binary(max_size=500))
def test_what_is_no_http2_breaks_a_rule_at_its_first_bytes(data: bytes) -> None:
    if PREFACE.startswith(data[: len(PREFACE)]):
        assert list(FrameReader().read(data)) == []
    else:
        with pytest.raises(BrokenRule):
            list(FrameReader().read(data))


def test_a_frame_may_not_be_larger_than_declared() -> None:
    whole = frame(frames.DATA, 0, 1, bytes(frames.MAX_FRAME_BYTES))
    assert len(list(FrameReader().read(PREFACE + whole))) == 1
    with pytest.raises(BrokenRule):
        list(FrameReader().read(PREFACE + frame(frames.DATA, 0, 1, bytes(frames.MAX_FRAME_BYTES + 1))[:9]))


@given(FRAMES, st.binary(max_size=40))
def test_padding_and_priority_are_taken_off(given_frame: Frame, content: bytes) -> None:
    with suppress(BrokenRule):
        without_padding(given_frame)
    padded = Frame(frames.HEADERS, frames.PADDED | frames.HAS_PRIORITY, 1, b"\3" + bytes(5) + content + bytes(3))
    assert without_padding(padded) == content


@given(st.binary(max_size=60))
def test_settings_of_any_bytes(content: bytes) -> None:
    with suppress(BrokenRule):
        assert len(list(read_settings(content))) == len(content) // 6


@given(HEADERS)
def test_written_headers_are_read_by_hpack(headers: list[tuple[bytes, bytes]]) -> None:
    assert [tuple(each) for each in hpack.Decoder().decode(block_of(headers), raw=True)] == headers


@given(st.lists(st.lists(st.tuples(NAMES, st.sampled_from([b"a", b"bb", b"POST"])), max_size=4), max_size=12))
def test_remembered_blocks_are_those_of_the_tables_state(calls: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, reader = hpack.Encoder(), HeaderReader()
    for headers in calls:
        assert reader.read(encoder.encode(headers)) == headers


@given(st.lists(st.binary(max_size=100), max_size=8))
def test_headers_of_any_bytes(blocks: list[bytes]) -> None:
    reader, plain = HeaderReader(), hpack.Decoder()
    with suppress(BrokenRule):
        for block in blocks:
            found = reader.read(block)
            assert found == [tuple(each) for each in plain.decode(block, raw=True)]
