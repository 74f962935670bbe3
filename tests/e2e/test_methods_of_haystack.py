"""Haystack's components for Hugging Face's and OpenAI's interfaces, asked of a real server.

haystack-ai needs a huggingface_hub below 2, so it has an environment of its own, whose Python HEADWAITER_HAYSTACK
names.
"""

from tests.alike import assert_alike
from tests.e2e.elsewhere import needs_environment, run_elsewhere
from tests.e2e.server import Server

PYTHON = "HEADWAITER_HAYSTACK"
pytestmark = needs_environment(PYTHON, "haystack-ai", "huggingface-api-haystack", "'huggingface_hub<2'")
TEXTS = ["a good book", "the parcel came two days late"]
PROGRAM = """
import json, os, sys

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from haystack_integrations.components.generators.huggingface_api import HuggingFaceAPIChatGenerator

url, *texts = sys.argv[1:]
key = Secret.from_token("none")
of_hf = {"api_type": "text_embeddings_inference", "api_params": {"url": f"{url}/models/embedder"}, "token": key}
of_openai = {"api_base_url": f"{url}/v1", "model": "embedder", "api_key": key}
told = {"texts": [], "documents": []}
for embedder in HuggingFaceAPITextEmbedder(**of_hf), OpenAITextEmbedder(**of_openai):
    told["texts"].append([embedder.run(text=text)["embedding"] for text in texts])
for embedder in HuggingFaceAPIDocumentEmbedder(**of_hf), OpenAIDocumentEmbedder(**of_openai):
    found = embedder.run(documents=[Document(content=text) for text in texts])["documents"]
    told["documents"].append([list(map(float, document.embedding)) for document in found])
messages = [ChatMessage.from_user("hello")]
written = []
chats = [
    OpenAIChatGenerator(
        api_base_url=f"{url}/v1", model="chat", api_key=key, generation_kwargs={"max_tokens": 5, "temperature": 0}
    ),
    OpenAIChatGenerator(
        api_base_url=f"{url}/v1",
        model="chat",
        api_key=key,
        generation_kwargs={"max_tokens": 5, "temperature": 0},
        streaming_callback=lambda chunk: written.append(chunk.content),
    ),
    HuggingFaceAPIChatGenerator(
        api_type="text_generation_inference",
        api_params={"url": f"{url}/models/chat"},
        token=key,
        generation_kwargs={"max_tokens": 5, "temperature": 0},
    ),
]
told["chats"] = [chat.run(messages=messages)["replies"][0].text for chat in chats]
told["streamed"] = "".join(each for each in written if each)
print(json.dumps(told))
"""


def test_its_components_get_the_servers_answers(server: Server) -> None:
    told = run_elsewhere(PYTHON, PROGRAM, server.url, *TEXTS)
    expected = [server.ask("embedder", text) for text in TEXTS]
    for found in (*told["texts"], *told["documents"]):
        assert_alike(found, expected)
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "temperature": 0}
    text = server.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert text
    assert told["chats"] == [text] * 3
    assert told["streamed"] == text
