"""The command line. Each command imports what it needs when it runs, so `--help` is fast.

`main` has the table of commands. Before a model is served: `heads`, `models` (with `log_summary`), `init`, `doctor`;
then `serve` (with `load_progress`), `keys`, `deploy`; its versions: `versions`, `rollout`; around a server: `tools`
(with `status_text`), `batch`. Shared by them: `options`, `errors`, `progress`, and `printable` for texts of others.
"""
