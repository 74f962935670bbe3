"""A front is woken by a file that is replaced, and looks by itself only where it cannot be told."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from registry.atomic_file import replace_file
from registry.references import Reference
from registry.settings import RegistrySettings
from serving.front import folder_news, routing
from serving.front.folder_news import FolderNews
from serving.front.routing import Routing
from serving.settings import ServingSettings
from serving.wire.routing_table import Table, TableFile
from tests.waiting import WAIT_SECONDS

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


def watching(folder: Path, work: Callable[[FolderNews], Awaitable[None]]) -> None:
    """Run `work` with the news of a folder, the first ones of which are taken."""

    async def run() -> None:
        news = FolderNews(folder)
        try:
            await news.wait(WAIT_SECONDS, 0.0)
            await work(news)
        finally:
            news.close()

    asyncio.run(run())


@on_linux
def test_a_file_that_is_replaced_ends_the_wait(tmp_path: Path) -> None:
    async def work(news: FolderNews) -> None:
        for _ in range(2):
            replace_file(tmp_path / "a", b"x")
            await asyncio.wait_for(news.wait(2 * WAIT_SECONDS, 0.0), WAIT_SECONDS)
        with pytest.raises(TimeoutError):  # what was told once is not told again
            await asyncio.wait_for(news.wait(2 * WAIT_SECONDS, 0.0), 0.05)

    watching(tmp_path, work)


def test_the_wait_can_be_ended(tmp_path: Path) -> None:
    async def work(news: FolderNews) -> None:
        waiting = asyncio.create_task(news.wait(2 * WAIT_SECONDS, 2 * WAIT_SECONDS))
        asyncio.get_running_loop().call_soon(news.tell)
        ended, _ = await asyncio.wait({waiting}, timeout=WAIT_SECONDS)
        assert ended

    watching(tmp_path, work)


@pytest.mark.parametrize("is_linux", [pytest.param(True, marks=on_linux), False])
def test_where_nothing_is_told_the_wait_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_linux: bool
) -> None:
    if is_linux:
        tmp_path = tmp_path / "nowhere"
    else:
        monkeypatch.setattr(folder_news, "watch", lambda folder: None)

    async def work(news: FolderNews) -> None:
        ended, _ = await asyncio.wait({asyncio.create_task(news.wait(2 * WAIT_SECONDS, 0.0))}, timeout=WAIT_SECONDS)
        assert ended

    watching(tmp_path, work)


def watches() -> int:
    """The inotify instances of this process. Its other descriptors may be closed by threads or the collector."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return found.count("anon_inode:inotify")


@on_linux
def test_no_descriptor_is_left(tmp_path: Path) -> None:
    async def work(news: FolderNews) -> None:
        return None

    before = watches()
    watching(tmp_path, work)
    watching(tmp_path / "nowhere", work)
    assert watches() == before


@on_linux
def test_a_table_is_followed_without_looking_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "LOOK_SECONDS", 2 * WAIT_SECONDS)
    settings = ServingSettings(RegistrySettings(tmp_path, ""), (Reference("m"),), tmp_path)
    applied: list[int] = []

    async def run() -> None:
        routes = Routing(settings, TableFile(tmp_path), lambda models: applied.append(len(models)))
        following = asyncio.create_task(routes.follow())
        writer = TableFile(tmp_path)
        try:
            for count in range(1, 4):
                writer.write(Table(taken_bytes=count))
                async with asyncio.timeout(WAIT_SECONDS):
                    while routes.table.taken_bytes != count:
                        await asyncio.sleep(0)
        finally:
            following.cancel()
            routes.close()

    asyncio.run(run())
    assert len(applied) == 3
