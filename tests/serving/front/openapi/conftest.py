from collections.abc import Iterator
from typing import cast

import pytest

from registry.versions import Versions
from serving.front.front import Front
from serving.manager.registry_desk import RegistryDesk
from tests.rollout_registry import MemoryVersions
from tests.serving.front.local_front import MakeFront
from tests.serving.front.task_fronts import RANKER, TASKS, serve_tasks


@pytest.fixture
def front(make_front: MakeFront) -> Iterator[Front]:
    """A front of every task and of a model that ranks, and the desk of a manager whose registry has them."""
    made = make_front(webhook_secret="secret")
    serve_tasks(made, (*TASKS, RANKER))
    registry = MemoryVersions()
    registry.tags.tags |= {name: {} for name in TASKS}
    registry.tags.aliases |= {name: {"champion": "1"} for name in TASKS}
    desk = RegistryDesk(made.settings, lambda: cast(Versions, registry))
    yield made
    desk.close()
