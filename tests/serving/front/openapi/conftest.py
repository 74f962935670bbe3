import pytest

from serving.front.front import Front
from tests.serving.front.local_front import MakeFront
from tests.serving.front.task_fronts import RANKER, TASKS, serve_tasks


@pytest.fixture
def front(make_front: MakeFront) -> Front:
    """A front of every task, and of a model that ranks."""
    made = make_front(webhook_secret="secret")
    serve_tasks(made, (*TASKS, RANKER))
    return made
