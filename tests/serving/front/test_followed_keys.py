"""A front follows the file of keys, and keeps what it knows where the file breaks."""

import asyncio
from pathlib import Path

import pytest

from registry.settings import InvalidSetting
from serving.front.access import Access
from tests.serving.front.closed_front import Asked, Closed
from tests.waiting import WAIT_SECONDS


def test_changes_of_the_file_hold_without_a_restart(closed: Closed) -> None:
    assert closed.ask("GET", "/v1/models", closed.somebody).status == 200
    closed.file.remove("somebody")
    closed.front.access._reload()
    assert closed.ask("GET", "/v1/models", closed.somebody).status == 401


def test_a_file_that_broke_leaves_the_keys_as_they_were(closed: Closed, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(InvalidSetting):
        closed.front.access._reload()
    assert closed.ask("GET", "/v1/models", closed.somebody).status == 200
    assert closed.ask("GET", "/v1/models").status == 401
    (tmp_path / "keys.json").unlink()
    with pytest.raises(InvalidSetting):
        closed.front.access._reload()
    assert closed.ask("GET", "/v1/models").status == 401


def test_a_front_follows_the_file(closed: Closed) -> None:
    async def work() -> None:
        following = asyncio.create_task(closed.front.access.follow())
        closed.file.remove("somebody")

        async def ask_as(key: tuple[str, str]) -> Asked:
            asked = Asked()
            headers = [(b"authorization", key[1].encode())]
            scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": headers}
            await closed.app(scope, asked.receive, asked.send)
            return asked

        before = await ask_as(closed.somebody)
        while (after := await ask_as(closed.somebody)).status == 200:
            await asyncio.sleep(0.01)
        assert (before.status, after.status) == (200, 401)
        assert "the key is not valid" in after.json["error"]["message"]
        assert (await ask_as(closed.operator)).status == 200
        assert not following.done()
        following.cancel()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))


def test_a_server_does_not_start_without_the_file_that_it_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="headwaiter keys add"):
        Access(tmp_path / "none")
