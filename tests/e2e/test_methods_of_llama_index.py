"""LlamaIndex's embeddings by Hugging Face's client, asked of a real server from an environment of their own.

They bring twenty packages. The variable HEADWAITER_LLAMA_INDEX names the Python of an environment that has them.
"""

from tests.alike import assert_alike
from tests.e2e.elsewhere import needs_environment, run_elsewhere
from tests.e2e.server import Server

PYTHON = "HEADWAITER_LLAMA_INDEX"
pytestmark = needs_environment(PYTHON, "llama-index-embeddings-huggingface-api")
TEXTS = ["a good book", "the parcel came two days late, and nobody knew why"]
PROGRAM = """
import asyncio, json, sys
from llama_index.embeddings.huggingface_api import HuggingFaceInferenceAPIEmbedding

url, *texts = sys.argv[1:]

def make_client():  # one lasts for one call of its synchronous methods
    return HuggingFaceInferenceAPIEmbedding(model_name=url)

async def ask():
    client = make_client()
    return {
        "text": await client.aget_text_embedding(texts[0]),
        "query": await client.aget_query_embedding(texts[1]),
        "batch": await client.aget_text_embedding_batch(texts),
        "aggregate": await client.aget_agg_embedding_from_queries(texts),
    }

print(json.dumps(asyncio.run(ask()) | {"at_once": make_client().get_text_embedding(texts[0])}))
"""


def test_its_methods_give_the_servers_vectors(server: Server) -> None:
    first, second = expected = [server.ask("embedder", text) for text in TEXTS]
    told = run_elsewhere(PYTHON, PROGRAM, f"{server.url}/models/embedder", *TEXTS)
    assert_alike([told["text"], told["query"]], expected)
    assert_alike(told["batch"], expected)
    assert_alike(told["at_once"], first)
    assert_alike(told["aggregate"], [(each + other) / 2 for each, other in zip(first, second, strict=True)])
