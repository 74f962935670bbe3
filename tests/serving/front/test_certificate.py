"""TLS: a renewed certificate is shown to the next client, broken files change nothing, and clients show theirs."""

import asyncio
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from registry.settings import InvalidSetting
from serving.front.app import DataPlane
from serving.front.certificate import Certificate
from serving.front.connection import Connection
from serving.front.connection_guard import ConnectionGuard
from serving.front.fast_path import FastConnection
from serving.front.handshakes import ServerLoop
from serving.runtime.tls_files import TlsFiles, check_tls
from tests.authority import Authority, shown_name
from tests.serving.front.attacked import PATIENT, other_app
from tests.serving.front.local_front import MakeFront
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow


Shown = Callable[..., str]


class Served:
    """A front behind uvicorn's TLS context, as its server makes it from BentoML's options."""

    def __init__(self, front: Any, kind: type[Connection], files: TlsFiles) -> None:
        self.certificate = Certificate(files)
        app = DataPlane(front, other_app)
        self.guard = ConnectionGuard(PATIENT)
        made: Any = type("Made", (kind,), {"guard": self.guard, "front": front, "protocol": app.huggingface})
        options: dict[str, Any] = {"ssl_certfile": files.certificate, "ssl_keyfile": files.key}
        if files.client_authorities is not None:
            options |= {"ssl_ca_certs": str(files.client_authorities), "ssl_cert_reqs": int(ssl.CERT_REQUIRED)}
        self._config = uvicorn.Config(app, http=made, ws="none", lifespan="off", log_config=None, **options)
        self._config.load()
        self._connect = lambda: made(config=self._config, server_state=ServerState(), app_state={})

    async def start(self) -> tuple[str, int]:
        loop = asyncio.get_running_loop()
        self.listener = await loop.create_server(self._connect, "127.0.0.1", 0, ssl=self._config.ssl)
        host, port = self.listener.sockets[0].getsockname()
        return host, port


@pytest.fixture(params=[Connection, FastConnection])
def served(request: Any, make_front: MakeFront, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(files: TlsFiles, work: Callable[[Served, Shown], Any], authority: Authority) -> None:
        async def within() -> None:
            front = make_front()
            front.routing._is_ready = True
            server = Served(front, request.param, files)
            monkeypatch.setattr(Certificate, "current", server.certificate)
            monkeypatch.setattr(Connection, "guard", server.guard, raising=False)
            address = await server.start()
            await work(server, lambda *client: asyncio.to_thread(shown_name, address, authority, *client))
            server.listener.close()

        with asyncio.Runner(loop_factory=ServerLoop) as runner:
            runner.run(asyncio.wait_for(within(), WAIT_SECONDS))

    return run


def test_a_renewed_certificate_is_shown_to_the_next_client(served: Callable[..., None], tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = TlsFiles(*authority.sign("first"))

    async def work(server: Served, shown: Any) -> None:
        assert await shown() == "first"
        authority.sign("second")
        server.certificate.look()
        assert await shown() == "second"
        following = asyncio.create_task(server.certificate.follow())
        authority.sign("third")
        while await shown() != "third":
            await asyncio.sleep(0.05)
        following.cancel()

    served(files, work, authority)


def test_one_that_was_renewed_before_the_first_client_is_shown_to_it(
    served: Callable[..., None], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    files = TlsFiles(*authority.sign("first"))

    async def work(server: Served, shown: Any) -> None:
        authority.sign("second")
        server.certificate.look()
        assert await shown() == "second"

    served(files, work, authority)


def test_one_that_was_renewed_within_a_step_of_the_clock_is_shown(served: Callable[..., None], tmp_path: Path) -> None:
    """Files that are written in place may keep inode, time and size."""
    authority = Authority(tmp_path)
    files = TlsFiles(tmp_path / "in-use.pem", tmp_path / "in-use.key")

    def put(name: str) -> list[tuple[int, int, int]]:
        for path, signed in zip(files.paths, authority.sign(name), strict=True):
            path.write_bytes(signed.read_bytes())
            os.utime(path, ns=(0, 0))
        return [(stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in map(os.stat, files.paths)]

    before = put("first")

    async def work(server: Served, shown: Any) -> None:
        assert await shown() == "first"
        while put("other") != before:  # the length of a signature varies
            pass
        server.certificate.look()
        assert await shown() == "other"

    served(files, work, authority)


def test_files_that_do_not_fit_together_change_nothing(
    served: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    files = TlsFiles(*authority.sign("first"))
    good = files.key.read_bytes()

    async def work(server: Served, shown: Any) -> None:
        assert await shown() == "first"
        for content in (Authority(tmp_path / "other").sign("x")[1].read_bytes(), b"", b"nonsense"):
            files.key.write_bytes(content)
            server.certificate.look()
            assert await shown() == "first"
        files.key.unlink()
        server.certificate.look()
        assert await shown() == "first"
        authority.sign("second")
        server.certificate.look()
        assert await shown() == "second"

    served(files, work, authority)
    assert good


def test_only_clients_of_the_authority_get_in(served: Callable[..., None], tmp_path: Path) -> None:
    authority, clients, strangers = (Authority(tmp_path / name, name) for name in ("own", "clients", "strangers"))
    files = TlsFiles(*authority.sign("first"), clients.file)
    known, stranger = clients.sign("a client"), strangers.sign("a stranger")

    async def work(server: Served, shown: Any) -> None:
        assert await shown(known) == "first"
        for client in ((), (stranger,)):
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                await shown(*client)
        authority.sign("second")
        server.certificate.look()
        assert await shown(known) == "second"
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            await shown(stranger)

    served(files, work, authority)


def test_files_that_cannot_be_used_are_refused_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.sign("first")
    assert check_tls(None, None, None) is None
    assert check_tls(certificate, key, authority.file) == TlsFiles(certificate, key, authority.file)
    for given in ((certificate, None, None), (None, key, None), (None, None, authority.file)):
        with pytest.raises(InvalidSetting, match="--tls-cert and --tls-key"):
            check_tls(*given)
    with pytest.raises(InvalidSetting, match=r"none.pem cannot be read \(No such file.*\): name a file"):
        check_tls(tmp_path / "none.pem", key, None)
    other = Authority(tmp_path / "other").sign("x")[1]
    for wrong in ((certificate, other, None), (key, key, None), (certificate, key, key)):
        with pytest.raises(InvalidSetting, match="cannot be used .*: give a certificate, its own private key"):
            check_tls(*wrong)
