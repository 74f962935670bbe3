"""The clock of `bench chaos` steps for the processes that have it, and the monotonic one does not."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.stepped_clock import SteppedClock

DAY = 86_400
SHOW = """
import datetime, sys, time
for line in sys.stdin:
    print(time.time(), datetime.datetime.now().timestamp(), time.monotonic(), flush=True)
"""


@pytest.mark.parametrize("days", [1, -1])
def test_the_wall_clock_steps_and_the_monotonic_one_goes_on(tmp_path: Path, days: int) -> None:
    clock = SteppedClock.make(tmp_path)
    if clock is None:
        pytest.skip("there is no C compiler")
    command = [sys.executable, "-c", SHOW]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**clock.environment}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def shown() -> tuple[float, float, float]:
            """What its clocks are ahead of this process': two wall clocks, and the monotonic one."""
            process.stdin.write("\n")
            process.stdin.flush()
            one, other, monotonic = map(float, process.stdout.readline().split())
            now = time.time()
            return one - now, other - now, monotonic - time.monotonic()

        assert shown() == pytest.approx((0, 0, 0), abs=DAY / 100)
        assert clock.is_of(process.pid)
        clock.set(DAY * days)
        assert shown() == pytest.approx((DAY * days, DAY * days, 0), abs=DAY / 100)
        clock.set(0)
        assert shown() == pytest.approx((0, 0, 0), abs=DAY / 100)
        process.stdin.close()
