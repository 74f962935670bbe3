"""Process 1: HTTP, tokenizing, routing, decoding. No torch, mlflow or transformers.

The files in the order of a request: `connection` (bounded by `connection_guard`) → `app` (or `fast_path`, which
`connection_choice` enables) → `protocols` over `asgi`, with `webhook`, `metrics_page`, `openapi` and
`model_description` beside them → `front` → `request_tracker` (with `request_context`, `request_log`, `tracing`,
`meter`) → `routing` → `loaded_version` → `engine_link` → `text_stream`.
`health` and `disconnects` run beside the requests; `cross_origin` stands before all of them where pages may ask.
"""
