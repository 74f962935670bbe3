"""LangChain's embeddings by Hugging Face's client, asked of a real server from an environment of their own.

langchain-huggingface 1.2 needs a huggingface_hub below 2, so it cannot be installed beside the server. The variable
HEADWAITER_LANGCHAIN names the Python of an environment that has it.
"""

from tests.alike import assert_alike
from tests.e2e.elsewhere import needs_environment, run_elsewhere
from tests.e2e.server import Server

PYTHON = "HEADWAITER_LANGCHAIN"
pytestmark = needs_environment(PYTHON, "langchain-huggingface", "numpy")
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
    found = run_elsewhere(PYTHON, PROGRAM, f"{server.url}/models/embedder", *TEXTS)
    documents, query, documents_later, query_later = found
    for found in (documents, documents_later):
        assert_alike(found, expected)
    for found in (query, query_later):
        assert_alike(found, expected[0])
