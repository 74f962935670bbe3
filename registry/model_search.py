"""Searches for registered models, all pages of them. They block on MLflow, and raise what its client does."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from registry.errors import RegistryUnavailable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

PAGE_MODELS = 1000
"""The most that MLflow's stores give at a time."""
FILTER_CHARACTERS = 4000
"""Of a search's filter, which stands in an address: servers and proxies take 8 KB of it."""


def find_models(client: "MlflowClient", names: Sequence[str]) -> "Iterator[RegisteredModel]":
    """The models of these names that are there. One request for some hundred names."""
    for wanted in _name_filters(names):
        yield from _search(client, wanted)


def find_tagged(client: "MlflowClient", key: str) -> "Iterator[RegisteredModel]":
    """The models that have the tag."""
    return _search(client, f"tags.`{key}` LIKE '%'")


def _search(client: "MlflowClient", wanted: str) -> "Iterator[RegisteredModel]":
    token = None
    while token != "":
        page = client.search_registered_models(filter_string=wanted, max_results=PAGE_MODELS, page_token=token)
        yield from page
        if page.token and page.token == token:
            raise RegistryUnavailable("the registry answers with the same page again and again: look at its server")
        token = page.token or ""


def _name_filters(names: Sequence[str]) -> Iterator[str]:
    """Filters of MLflow's search that find these models together; a name with a quote is left out."""
    quoted: list[str] = []
    for name in names:
        if "'" in name:
            continue
        if quoted and sum(map(len, quoted)) + len(quoted) + len(name) > FILTER_CHARACTERS:
            yield f"name IN ({','.join(quoted)})"
            quoted = []
        quoted.append(f"'{name}'")
    if quoted:
        yield f"name IN ({','.join(quoted)})"
