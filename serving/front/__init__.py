"""Process 1: HTTP, tokenizing, routing, decoding. No torch, mlflow or transformers.

The files in the order of a request: `handshakes` of TLS → `connection` (a `request_stream`, bounded by
`connection_guard`, with its `unread_answers` and `refusals`) → `app` (or `fast_path`, which `connection_choice`
enables) → `protocols` over `asgi`, with `webhook`, `metrics_page`, `ui_page`, `administration`, `openapi` and
`model_description` beside them → `front` → `request_tracker` (with `request_context`, `request_log`, `tracing`,
`meter`) → `attempts` → `visible_models` → `routing` (woken by `folder_news`; its `version_loads` read new versions,
and `engine_links` connect them; else `unavailable`) → `loaded_version` (in `turns`, at the threads of `fair_pool`) →
`admission` or `held_requests` → `engine_link`, with a `waiter` and its `request_compute` → `text_stream`.
`health` and `disconnects` run beside the requests, `version_demand` tells the manager of them. `host_names` and
`access` (with `key_limits`) stand before all of them, and `cross_origin` where pages may ask. `admin_port` has a port
of its own, and `certificate` follows the files of TLS. `rpc` answers the Open Inference Protocol over gRPC, at a port
of its own and by the same `front`; `rollout` chooses the side of each request of a rollout, and counts it.
"""
