"""A running server from outside, over HTTP. Imports nothing of the server.

`client_settings` → `server_client` asks it: for `headwaiter status`, for `batch` (with `batch_files`), and for
`mlflow_deployments` (with `deployment_options`). `local_server` runs one while a block runs.
"""
