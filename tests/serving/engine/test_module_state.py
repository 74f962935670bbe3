"""What a forward pass changes in a module is found by name, and undone."""

import torch
from transformers import BertConfig, BertModel

from serving.engine.module_state import Change, ModuleState


class Part(torch.nn.Module):
    """A module with an attribute, a cache, a buffer and a child of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.mode, self.seen, self.cache = "sparse", 0, None
        self.register_buffer("table", torch.zeros(2))
        self.child: torch.nn.Module = torch.nn.Linear(2, 2)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Itself changed in every way, the input as it is."""
        self.mode, self.seen, self.cache, self.late = "full", self.seen + 1, torch.ones(1), True
        self.table = torch.ones(2)
        self.child = torch.nn.Identity()
        return given


def test_changes_are_named_and_undone() -> None:
    outer = torch.nn.Sequential(Part(), torch.nn.Linear(2, 2)).eval()
    part = outer[0]
    state, child = ModuleState(outer), part.child
    assert state.changes() == []
    outer(torch.zeros(2))
    assert set(state.changes()) == {
        *(Change(name, is_setting=True) for name in ("mode", "child", "late")),
        *(Change(name, is_setting=False) for name in ("seen", "cache", "table")),
    }
    state.restore()
    assert state.changes() == []
    assert (part.mode, part.seen, part.cache, part.child) == ("sparse", 0, None, child)
    assert not hasattr(part, "late")
    assert part.table.tolist() == [0, 0]


def test_a_kept_state_outlives_every_forward_pass() -> None:
    part = Part().eval()
    ModuleState(part).keep(part)
    for _ in range(2):
        part(torch.zeros(2))
        assert (part.mode, part.seen) == ("sparse", 0)


def test_a_changed_configuration_is_a_change() -> None:
    model = BertModel(BertConfig(hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4))
    state = ModuleState(model)
    model.config.hidden_act = "relu"
    assert state.changes() == [Change("config.hidden_act", is_setting=True)]
    state.restore()
    assert model.config.hidden_act == "gelu"
