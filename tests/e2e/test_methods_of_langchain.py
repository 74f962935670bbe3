"""LangChain's embeddings by Hugging Face's client, asked of a real server from an environment of their own.

langchain-huggingface 1.2 needs a huggingface_hub below 2, so it cannot be installed beside the server. The variable
HEADWAITER_LANGCHAIN names the Python of an environment that has it.
"""

import json
import os
import subprocess

import pytest

from tests.alike import assert_alike
from tests.e2e.server import Server
from tests.waiting import WAIT_SECONDS

PYTHON = os.environ.get("HEADWAITER_LANGCHAIN", "")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.processor,
    pytest.mark.skipif(
        not PYTHON,
        reason="HEADWAITER_LANGCHAIN is not set: python3 -m venv lc; lc/bin/pip install langchain-huggingface numpy; "
        "HEADWAITER_LANGCHAIN=lc/bin/python",
    ),
]
TEXTS = ["a good book", "the parcel came two days late, and nobody knew why"]
PROGRAM = """
import asyncio, json, sys
from huggingface_hub import AsyncInferenceClient, InferenceClient
from langchain_huggingface import HuggingFaceEndpointEmbeddings

url, *texts = sys.argv[1:]
embeddings = HuggingFaceEndpointEmbeddings(model="any/name", huggingfacehub_api_token="none")
embeddings.client = InferenceClient(model=url)
embeddings.async_client = AsyncInferenceClient(model=url)

async def ask():
    return [await embeddings.aembed_documents(texts), await embeddings.aembed_query(texts[0])]

found = [embeddings.embed_documents(texts), embeddings.embed_query(texts[0]), *asyncio.run(ask())]
print(json.dumps(found))
"""


def test_its_methods_give_the_servers_vectors(server: Server) -> None:
    """Those of LangChain's interface `Embeddings`: `embed_documents`, `embed_query`, and both asynchronously."""
    expected = [server.ask("embedder", text) for text in TEXTS]
    command = [PYTHON, "-c", PROGRAM, f"{server.url}/models/embedder", *TEXTS]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT_SECONDS, env=environ)
    documents, query, documents_later, query_later = json.loads(done.stdout)
    for found in (documents, documents_later):
        assert_alike(found, expected)
    for found in (query, query_later):
        assert_alike(found, expected[0])
