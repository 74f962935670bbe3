"""BentoML's reverse proxy, imported when it is used: by services that are commands, which these are not.

Its module brings aiohttp and pyparsing: 0.2 s and 10 MiB of each worker. Read in BentoML 1.4.39.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

PROXY = "_bentoml_impl.server.proxy"


def defer_proxy() -> None:
    """Put a module in the proxy's place that imports it when it is used, unless it is imported already."""
    if PROXY in sys.modules:
        return
    deferred: Any = ModuleType(PROXY)

    def find(name: str) -> Any:
        if name.startswith("__"):  # which the import system looks for
            raise AttributeError(name)
        if sys.modules.get(PROXY) is deferred:
            del sys.modules[PROXY]
        return getattr(importlib.import_module(PROXY), name)

    def create_proxy_app(service: object) -> Any:
        return find("create_proxy_app")(service)

    deferred.create_proxy_app = create_proxy_app
    deferred.__getattr__ = find  # for what another release may ask for
    sys.modules[PROXY] = deferred
