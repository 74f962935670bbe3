from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.front.front import Front
from tests.serving.front.local_front import MakeFront
from tests.serving.front.local_front import make_front as make


@pytest.fixture
def make_front(tmp_path: Path) -> Iterator[MakeFront]:
    """Makes fronts without engines; what they hold is let go at the end."""
    made: list[Front] = []

    def remembered(**given: Any) -> Front:
        made.append(make(tmp_path, **given))
        return made[-1]

    yield remembered
    for front in made:
        front.routing.close()
