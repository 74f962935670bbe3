"""LlamaIndex's embeddings by Hugging Face's client, asked of a real server, where the package is installed."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import pytest

from tests.alike import assert_alike
from tests.e2e.server import Server

pytestmark = [
    pytest.mark.processor,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the client closes none of its connections
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

embeddings = pytest.importorskip(
    "llama_index.embeddings.huggingface_api",
    reason="not installed: pip install llama-index-embeddings-huggingface-api (it brings twenty packages)",
)
TEXTS = ["a good book", "the parcel came two days late, and nobody knew why"]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What the client leaves open is collected while its warnings are ignored."""
    yield
    gc.collect()


def make_client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A new client; one lasts for one call of its synchronous methods."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return embeddings.HuggingFaceInferenceAPIEmbedding(model_name=f"{server.url}/models/embedder")


def test_its_asynchronous_methods_give_the_servers_vectors(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> tuple[Any, ...]:
        client = make_client(server, monkeypatch)
        return (
            await client.aget_text_embedding(TEXTS[0]),
            await client.aget_query_embedding(TEXTS[1]),
            await client.aget_text_embedding_batch(TEXTS),
            await client.aget_agg_embedding_from_queries(TEXTS),
        )

    expected = [server.ask("embedder", text) for text in TEXTS]
    mean = [(first + second) / 2 for first, second in zip(*expected, strict=True)]
    text, query, batch, aggregate = asyncio.run(ask())
    assert_alike([text, query], expected)
    assert_alike(batch, expected)
    assert_alike(aggregate, mean)


def test_its_synchronous_methods_give_the_servers_vectors_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [server.ask("embedder", text) for text in TEXTS]
    assert_alike(make_client(server, monkeypatch).get_text_embedding(TEXTS[0]), expected[0])
    assert_alike(make_client(server, monkeypatch).get_query_embedding(TEXTS[1]), expected[1])
    assert_alike(make_client(server, monkeypatch).get_text_embedding_batch(TEXTS), expected)
