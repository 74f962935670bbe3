"""The shapes of OpenAI's answers; see `shapes`."""

from typing import Literal, TypedDict

from serving.front.openapi.shapes import JsonRecord


class OpenAIModel(TypedDict):
    """A model. created: seconds since the epoch, when its version went live."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(TypedDict):
    """The models that take requests."""

    object: Literal["list"]
    data: list[OpenAIModel]


class EmbeddingUsage(TypedDict):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class PromptTokens(TypedDict):
    """cached_tokens: not computed, because an earlier prompt of the same key began with them."""

    cached_tokens: int


class Usage(EmbeddingUsage):
    """Token counts of generated texts."""

    completion_tokens: int
    prompt_tokens_details: PromptTokens


class Embedding(TypedDict):
    """A vector: numbers, or their bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(TypedDict):
    """One vector for each text."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class CompletionHead(TypedDict):
    """The fields that both kinds of completions have. system_fingerprint: model and version."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage


class CompletionChoice(TypedDict):
    """One text."""

    index: int
    text: str
    finish_reason: str
    logprobs: JsonRecord | None


class CompletionAnswer(CompletionHead):
    """Continuations of prompts."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class ChatMessage(TypedDict):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(TypedDict):
    """One message."""

    index: int
    message: ChatMessage
    finish_reason: str
    logprobs: JsonRecord | None


class ChatAnswer(CompletionHead):
    """The next message of a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
