"""An engine's heartbeat: how far its loop is, and which rows it computes, in one small file.

The engine writes the file in place, which costs microseconds. The manager reads it to notice an engine that hangs. Once
an engine has ended, the fronts read in it which rows it was computing.
"""

import os
import struct
from contextlib import suppress
from pathlib import Path

import msgspec

FILE_BYTES = 1 << 16
"""Reserved on the disk at the start, so that a full disk stops no heartbeat. Rows that do not fit are left out."""
_PULSE = struct.Struct("<Qd?I")
"""turn, expected_seconds, is_suspect, and the size of the rows that follow as msgpack."""

Rows = dict[bytes, list[int]]
"""Rows that an engine computes: a front's ZeroMQ identity → its rows' ids."""


class Pulse(msgspec.Struct, frozen=True):
    """turn: counts each time that the loop got on; it stays the same while a forward pass is under way.

    expected_seconds: how long the forward passes under way should take. is_suspect: whether they are of a row that
    must be alone, see `messages.Row`.
    """

    turn: int
    expected_seconds: float
    is_suspect: bool = False


def heartbeat_path(address: str, pid: int) -> Path:
    """The file of the engine that answers at `address` (`ipc://…/NAME.sock`) as process `pid`."""
    return Path(f"{address.removeprefix('ipc://').removesuffix('.sock')}.{pid}.beat")


def read_pulse(path: Path) -> Pulse | None:
    """The last pulse; None where there is none."""
    try:
        with path.open("rb", buffering=0) as file:
            turn, expected, is_suspect, _ = _PULSE.unpack(file.read(_PULSE.size))
    except (OSError, struct.error):
        return None
    return Pulse(turn, expected, is_suspect)


def read_rows(path: Path) -> Rows | None:
    """The rows that an engine which has ended was computing; None where it did not tell."""
    try:
        data = path.read_bytes()
        *_, size = _PULSE.unpack_from(data)
        return msgspec.msgpack.decode(data[_PULSE.size : _PULSE.size + size], type=Rows | None)
    except (OSError, struct.error, msgspec.DecodeError):
        return None


def remove_beats(address: str, but: int = 0) -> None:
    """Remove the files of the processes that answered at `address`, except that of process `but`."""
    kept = heartbeat_path(address, but)
    for path in kept.parent.glob(f"{kept.name.removesuffix(f'{but}.beat')}*.beat"):
        if path != kept:
            path.unlink(missing_ok=True)


class HeartbeatFile:
    """The writer's side. Without room on the disk there is no file, and nobody waits for a beat."""

    def __init__(self, path: Path | None) -> None:
        """path: None for an engine that nobody watches."""
        self._path = path
        self._descriptor = -1
        self._encoder = msgspec.msgpack.Encoder()
        if path is not None:
            with suppress(OSError):
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._put(bytes(FILE_BYTES))
                self.write(Pulse(0, 0.0), {})

    def write(self, pulse: Pulse, rows: Rows | None) -> None:
        """Replace the beat. rows: that are computed, None where they are not told."""
        if self._descriptor < 0:
            return
        packed = self._encoder.encode(rows)
        if len(packed) > FILE_BYTES - _PULSE.size:
            packed = self._encoder.encode(None)
        self._put(_PULSE.pack(pulse.turn, pulse.expected_seconds, pulse.is_suspect, len(packed)) + packed)

    def close(self) -> None:
        """Beat no more; the file stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self, data: bytes) -> None:
        """Write from the start. A file that cannot be written to is removed: silence would count as hanging."""
        try:
            os.pwrite(self._descriptor, data, 0)
        except OSError:
            self.close()
            if self._path is not None:
                self._path.unlink(missing_ok=True)
