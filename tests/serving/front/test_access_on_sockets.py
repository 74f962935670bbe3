"""Keys on a socket, by every way through the server."""

import asyncio

import pytest

from serving.front.connection import Connection
from serving.front.fast_path import FastConnection
from tests.serving.front.attacked import BODY, PATIENT, ROUTES, Attacked, attack, chunk, chunked, head
from tests.serving.front.closed_front import Closed, bearer
from tests.serving.front.local_front import answer, engines


@pytest.mark.parametrize("kind", [Connection, FastConnection])
def test_a_key_is_asked_for_before_the_body_comes(kind: type[Connection], closed: Closed) -> None:
    engines(closed.front, "1", *[answer("an answer")] * 9)

    async def work(server: Attacked) -> None:
        for path in ("/models/m", "/v1/embeddings", "/v2/models/m/infer", "/invocations", "/predict"):
            for key in ((), ("Authorization: Bearer hw_wrong",)):
                client = await server.client()
                client.send(head(path, "Content-Length: 1000", *key))
                status, headers, _ = await client.answer()
                assert (status, headers[b"www-authenticate"]) == (401, b"bearer")
                client.leave()
        client = await server.client()
        for path in ("/models/m", "/models/m/versions/1", "/models/secret"):
            key = f"Authorization: {closed.somebody[1]}"
            client.send(head(path, f"Content-Length: {len(BODY)}", key) + BODY)
            assert (await client.answer())[0] == (403 if path == "/models/secret" else 200)
            client.send(head(path, f"Content-Length: {len(BODY)}") + BODY)
            assert (await client.answer())[0] == 401, "each request on a connection shows its own key"

    attack(lambda: Attacked(closed.front, PATIENT, kind, 60.0), work)


@pytest.mark.parametrize("kind", [Connection, FastConnection])
def test_a_key_in_a_trailer_is_no_key(kind: type[Connection], closed: Closed) -> None:
    """A proxy that strips the header Authorization leaves trailers (RFC 9110, 6.5.1)."""
    engines(closed.front, "1", *[answer("an answer")] * 9)
    key = f"Authorization: {closed.somebody[1]}"
    trailers = f"0\r\n{key}\r\nHost: evil\r\n\r\n".encode()

    async def work(server: Attacked) -> None:
        for path in ROUTES:
            for body in (b"", chunk(BODY)):
                assert (await server.ask(chunked(path) + body + trailers))[0] == 401
        client = await server.client()
        for _ in range(2):
            client.send(head("/models/m", "Transfer-Encoding: chunked", key) + chunk(BODY) + trailers)
            assert (await client.answer())[0] == 200
        client.send(head("/models/m", f"Content-Length: {len(BODY)}", key) + BODY)
        assert (await client.answer())[0] == 200, "the headers of the next request are headers again"

    attack(lambda: Attacked(closed.front, PATIENT, kind, 60.0), work)


@pytest.mark.parametrize("kind", [Connection, FastConnection])
def test_a_request_that_was_answered_or_given_up_is_in_progress_no_more(kind: type[Connection], closed: Closed) -> None:
    one = bearer(closed.file.add("one", concurrency=1))
    closed.front.access._reload()
    link = engines(closed.front, "1")
    link.on_submit = answer("an answer")
    sent = head("/models/m", f"Content-Length: {len(BODY)}", f"Authorization: {one[1]}")

    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send((sent + BODY) * 3)
        assert [(await client.answer())[0] for _ in range(3)] == [200] * 3
        leaving = await server.client()
        leaving.send(sent + BODY[:3])
        while (await refused(server)) != 429:
            await asyncio.sleep(0.002)
        leaving.leave()
        while (await refused(server)) != 200:
            await asyncio.sleep(0.002)

    async def refused(server: Attacked) -> int:
        return (await server.ask(sent + BODY))[0]

    attack(lambda: Attacked(closed.front, PATIENT, kind, 60.0), work)
