"""Shared by every process of a server: log, metrics, priority, limits, and the server process that it ends with.

Before a server starts: `address`, `exposure`, `key_file`, `tls_files`, `limits` (with `control_groups`), `machine`.
Its processes: `run_folder` that they share, `server_process` with which they end, `supervisor` and `deferred_proxy` of
BentoML, `workers` that watch one another, `watchdog` of engines, `peer` at the other end of a socket, `command_line`.
In each of them: `logs`, `audit`, `instruments`, `priority`, `backoff`, `daemon_pool`, `bounded_calls`, `foreign_http`,
which asks other servers, and `inotify`.
"""
