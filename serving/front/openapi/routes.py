"""Every route of a server, declared once. `document` describes them.

Tests compare them with what the app answers and with docs/http.md.
"""

from collections.abc import Sequence

import msgspec

from monitoring.text_formats import OPEN_METRICS
from monitoring.text_formats import TEXT as PROMETHEUS_TEXT
from serving.front.openapi import kserve_shapes as kserve
from serving.front.openapi import openai_shapes as openai
from serving.front.openapi import shapes
from serving.front.openapi.route import (
    BYTES,
    EVENTS,
    HTML,
    JSON,
    TEXT,
    Beside,
    Contents,
    Family,
    Opaque,
    Route,
    Shaped,
    TaskAnswers,
    TaskBodies,
)
from serving.front.protocols.bentoml import PredictForm
from serving.front.protocols.kserve import IndexForm
from serving.front.protocols.kserve_inference import InferenceForm
from serving.front.protocols.openai_chat import ChatForm
from serving.front.protocols.openai_completions import CompletionForm
from serving.front.protocols.openai_embeddings import EmbeddingForm
from serving.front.protocols.rerank import DocumentsForm, TextsForm
from serving.front.protocols.tokens import IdsForm, PromptForm, TokenizeForm
from serving.front.webhook import Event
from serving.tasks.base.answers import Ranked
from serving.wire.registry_orders import ChangeRollout, Promote, RollBack, StartRollout

HEADWAITER = Family("Headwaiter", shapes.HuggingFaceError)
HUGGING_FACE = Family("Hugging Face", shapes.HuggingFaceError)
OPENAI = Family("OpenAI", shapes.OpenAIError)
KSERVE = Family("Open Inference Protocol", shapes.PlainError)
MLFLOW = Family("MLflow scoring", shapes.MLflowError)
WEBHOOKS = Family("MLflow webhooks", shapes.HuggingFaceError)
PROMETHEUS = Family("Prometheus", shapes.HuggingFaceError)
RERANK = Family("Rerank", shapes.RerankError)
TOKENS = Family("Tokenizer", shapes.HuggingFaceError)
BENTOML = Family("BentoML", shapes.PlainError)

OF_MODEL = (404, 503)
"""How a question about a model is refused."""
OF_ADMIN = (404, 500, 503, 504)
"""How a question about the registry is refused."""
ASKED = (400, 404, 413, 422, 429, 500, 503, 504)
"""How a request to a model is refused."""


def _get(path: str, protocol: Family, summary: str, *types: object, refusals: Sequence[int] = ()) -> Route:
    """A GET whose answer is JSON of one of these types."""
    answer: Contents = {JSON: Shaped(types)}
    return Route(method="GET", path=path, protocol=protocol, summary=summary, answer=answer, refusals=tuple(refusals))


def _text(path: str, protocol: Family, summary: str, media: str = TEXT, refusals: Sequence[int] = ()) -> Route:
    """A GET whose answer is text."""
    answer: Contents = {media: Opaque(is_text=True)}
    return Route(method="GET", path=path, protocol=protocol, summary=summary, answer=answer, refusals=tuple(refusals))


def _page(path: str, summary: str, *media: str, refusals: tuple[int, ...] = ()) -> Route:
    """A GET of a file of the page."""
    answer: Contents = dict.fromkeys(media, Opaque(is_text=True))
    headers = ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cross-Origin-Opener-Policy")
    return Route(
        method="GET",
        path=path,
        protocol=HEADWAITER,
        summary=summary,
        answer=answer,
        refusals=refusals,
        headers=headers,
    )


def _ask(path: str, protocol: Family, summary: str, body: Contents, answer: Contents) -> Route:
    """A request to a model."""
    return Route(method="POST", path=path, protocol=protocol, summary=summary, body=body, answer=answer, refusals=ASKED)


def _huggingface(path: str, summary: str) -> Route:
    body: Contents = {JSON: TaskBodies(), BYTES: Opaque(tasks="files")}
    return _ask(path, HUGGING_FACE, summary, body, {JSON: TaskAnswers(), EVENTS: Opaque()})


def _openai(prefix: str, name: str, more: str) -> list[Route]:
    """OpenAI's routes. name: of the parameter that names a model. more: what the summaries end with."""
    completions: Contents = {JSON: Shaped((openai.CompletionAnswer,)), EVENTS: Opaque()}
    chats: Contents = {JSON: Shaped((openai.ChatAnswer,)), EVENTS: Opaque()}
    vectors: Contents = {JSON: Shaped((openai.EmbeddingsAnswer,))}
    written: Contents = {JSON: Beside(CompletionForm, "generates")}
    said: Contents = {JSON: Beside(ChatForm, "generates")}
    embedded: Contents = {JSON: Beside(EmbeddingForm, "embeds")}
    return [
        _get(f"{prefix}/models", OPENAI, "List the models", openai.OpenAIModels),
        _get(f"{prefix}/models/{{{name}}}", OPENAI, "One model", openai.OpenAIModel, refusals=OF_MODEL),
        _get(f"{prefix}/models/{{{name}}}/{{version}}", OPENAI, "One model", openai.OpenAIModel, refusals=OF_MODEL),
        _ask(f"{prefix}/embeddings", OPENAI, f"Make vectors of texts{more}", embedded, vectors),
        _ask(f"{prefix}/completions", OPENAI, f"Continue prompts{more}", written, completions),
        _ask(f"{prefix}/chat/completions", OPENAI, f"Write the next message of a chat{more}", said, chats),
    ]


def _kserve(path: str, more: str) -> list[Route]:
    """The five routes of a model. more: what the summaries end with."""
    tensors: Contents = {JSON: Shaped((InferenceForm,)), BYTES: Opaque()}
    outputs: Contents = {JSON: Shaped((kserve.Inference,)), BYTES: Opaque()}
    config = "Triton's model configuration"
    return [
        _get(path, KSERVE, f"Inputs, outputs and versions{more}", kserve.ModelMetadata, refusals=OF_MODEL),
        _get(f"{path}/ready", KSERVE, f"Whether the model answers{more}", kserve.ModelReady, refusals=OF_MODEL),
        _ask(f"{path}/infer", KSERVE, f"Infer{more}; JSON, or binary tensors", tensors, outputs),
        _get(f"{path}/config", KSERVE, f"{config}{more}", kserve.ModelConfiguration, refusals=OF_MODEL),
        _get(f"{path}/stats", KSERVE, f"Triton's statistics{more}", kserve.AllStatistics, refusals=OF_MODEL),
    ]


def _rerank(path: str, more: str = "") -> Route:
    body: Contents = {JSON: Shaped((DocumentsForm, TextsForm))}
    answer: Contents = {JSON: Shaped((shapes.Reranked, list[Ranked]))}
    return _ask(path, RERANK, f"Rank texts by a query{more}", body, answer)


def _tokens(prefix: str, more: str = "") -> list[Route]:
    """The routes of a tokenizer. more: what the summaries end with."""
    texts: Contents = {JSON: Shaped((PromptForm, TokenizeForm))}
    tokens: Contents = {JSON: Shaped((shapes.Tokenized, list[list[shapes.TokenPlace]]))}
    ids: Contents = {JSON: Shaped((IdsForm,))}
    text: Contents = {JSON: Shaped((shapes.Detokenized,))}
    return [
        _ask(f"{prefix}/tokenize", TOKENS, f"Tokens of texts{more}", texts, tokens),
        _ask(f"{prefix}/detokenize", TOKENS, f"The text of token ids{more}", ids, text),
    ]


def _order(path: str, summary: str, body: type[msgspec.Struct], answer: object) -> Route:
    """A change in the registry."""
    return Route(
        method="POST",
        path=f"/admin/models/{{name}}/{path}",
        protocol=HEADWAITER,
        summary=summary,
        body={JSON: Shaped((body,))},
        answer={JSON: Shaped((answer,))},
        refusals=(400, 404, 413, 422, 500, 503, 504),
    )


def _mlflow(path: str, summary: str) -> Route:
    tables = (shapes.InputsForm, shapes.InstancesForm, shapes.SplitForm, shapes.RecordsForm)
    body: Contents = {JSON: Shaped(tables), "text/csv": Opaque(is_text=True)}
    return _ask(path, MLFLOW, summary, body, {JSON: Shaped((shapes.Predictions,))})


ROUTES: tuple[Route, ...] = (
    _get("/models", HEADWAITER, "All models: versions, states, aliases, recent swaps", shapes.Models),
    _get(
        "/models/{name}",
        HEADWAITER,
        "One model, with contracts and engines",
        shapes.ModelDescription,
        refusals=OF_MODEL,
    ),
    _huggingface("/models/{name}", "Answer a request with the live version"),
    _huggingface("/models/{name}/versions/{version}", "Answer a request with one version"),
    _get("/models/{name}/health", HUGGING_FACE, "Whether the model answers", shapes.Health, refusals=OF_MODEL),
    _get("/models/{name}/info", HUGGING_FACE, "Task, version and limits", shapes.Info, refusals=OF_MODEL),
    *_openai("/v1", "name", ""),
    *_openai("/models/{name}/v1", "id", " of the model in the path"),
    _rerank("/rerank"),
    _rerank("/v1/rerank"),
    _rerank("/v2/rerank"),
    _rerank("/models/{name}/rerank", " with the model in the path"),
    *_tokens(""),
    *_tokens("/models/{name}", ", by the model in the path"),
    _get("/v2", KSERVE, "The server's name, version and extensions", kserve.Server),
    _get("/v2/health/live", KSERVE, "Liveness", kserve.Live),
    _get("/v2/health/ready", KSERVE, "Readiness", kserve.Ready),
    *_kserve("/v2/models/{name}", ""),
    *_kserve("/v2/models/{name}/versions/{version}", ", of one version"),
    _get("/v2/models/stats", KSERVE, "Triton's statistics of all models", kserve.AllStatistics),
    Route(
        method="POST",
        path="/v2/repository/index",
        protocol=KSERVE,
        summary="All versions with their states",
        body={JSON: Shaped((IndexForm,))},
        answer={JSON: Shaped((list[kserve.IndexEntry],))},
        refusals=(400, 413, 422),
    ),
    _mlflow("/invocations", "Answer with the only model that is served"),
    _mlflow("/invocations/{name}", "Answer with a model"),
    _text("/ping", MLFLOW, "Readiness"),
    _text("/version", MLFLOW, "MLflow's version"),
    Route(
        method="POST",
        path="/hooks/mlflow",
        protocol=WEBHOOKS,
        summary="Poll the registry at once",
        body={JSON: Shaped((Event,))},
        answer={JSON: Shaped((shapes.HookAnswer,))},
        status=202,
        refusals=(400, 401, 404, 413, 503),
    ),
    _get("/admin/models/{name}/history", HEADWAITER, "Who moved the aliases", shapes.Moves, refusals=OF_ADMIN),
    _get("/admin/models/{name}/rollout", HEADWAITER, "The latest rollout", shapes.RolloutAnswer, refusals=OF_ADMIN),
    _order("promote", "Make a version live", Promote, shapes.JsonRecord),
    _order("rollback", "Make the version live that was before", RollBack, shapes.JsonRecord),
    _order("rollout", "Begin a rollout", StartRollout, shapes.RolloutAnswer),
    _order("rollout/pause", "Stay in the step", ChangeRollout, shapes.RolloutAnswer),
    _order("rollout/resume", "Go on after a pause", ChangeRollout, shapes.RolloutAnswer),
    _order("rollout/abort", "End the rollout without its candidate", ChangeRollout, shapes.RolloutAnswer),
    _order("rollout/finish", "End the rollout with its candidate live", ChangeRollout, shapes.RolloutAnswer),
    _page("/ui", "The page", HTML),
    _page("/ui/{file}", "Files of the page", "text/css", "text/javascript", "image/svg+xml", refusals=(404,)),
    Route(
        method="GET",
        path="/metrics",
        protocol=PROMETHEUS,
        summary="The metrics of all processes",
        answer={PROMETHEUS_TEXT: Opaque(is_text=True), OPEN_METRICS: Opaque(is_text=True)},
    ),
    _get("/openapi.json", HEADWAITER, "This document", shapes.JsonRecord),
    Route(
        method="POST",
        path="/predict",
        protocol=BENTOML,
        summary="A typed API",
        body={JSON: Shaped((PredictForm,))},
        answer={JSON: Shaped((object,))},
        refusals=ASKED,
    ),
    Route(
        method="GET",
        path="/",
        protocol=BENTOML,
        summary="BentoML's page of its typed API",
        answer={HTML: Opaque(is_text=True)},
        headers=("Content-Security-Policy",),
    ),
    _get("/docs.json", BENTOML, "BentoML's description of its typed API", shapes.JsonRecord),
    _get("/schema.json", BENTOML, "BentoML's description of its service", shapes.JsonRecord),
    Route(
        method="GET",
        path="/static_content/{path}",
        protocol=BENTOML,
        summary="Files of BentoML's page",
        answer={"*/*": Opaque()},
        refusals=(404,),
    ),
    _text("/livez", BENTOML, "Liveness"),
    _text("/healthz", BENTOML, "Liveness"),
    _text("/readyz", BENTOML, "Readiness"),
)
