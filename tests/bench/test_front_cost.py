import pytest
import torch

from bench import front_cost
from bench.front_process import STAGES

pytestmark = pytest.mark.server


@pytest.mark.long
def test_fronts_are_measured_by_stage_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_cost, "FRONTS", (1, 2))
    monkeypatch.setattr(front_cost, "ROUNDS", 1)
    threads = torch.get_num_threads()
    try:
        report = front_cost.run(0.3)
    finally:
        torch.set_num_threads(threads)
    lines = [line for line in report.splitlines() if line.startswith("| ") and not line.startswith("| :")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    stages, together = rows[1 : 1 + len(STAGES)], rows[2 + len(STAGES) :]
    assert [name for name, *_ in stages] == list(STAGES)
    assert [fronts for fronts, *_ in together] == ["1", "2"]
    assert all(float(micros) > 0 for _, micros, _ in together)
