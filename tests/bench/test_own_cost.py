import pytest
import torch

from bench import own_cost

pytestmark = pytest.mark.server


def test_an_engine_and_a_front_are_measured_with_a_model_that_answers_at_once() -> None:
    threads = torch.get_num_threads()
    try:
        report = own_cost.run(0.2)
    finally:
        torch.set_num_threads(threads)
    rows = [line.split("|")[1:3] for line in report.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [int(size) for size, _ in rows] == [*own_cost.BATCHES, *own_cost.LOADED]
    assert all(float(micros) > 0 for _, micros in rows)
