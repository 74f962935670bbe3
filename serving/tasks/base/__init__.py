"""Shared by the tasks: what a task is, and what several of them do alike.

`task` is the interface. On the way in, in a front: `body_values` bounds a body → `request`, with `columns` and `fields`
→ `bounds` of what the task declares as its `cost` → `version_context`, with which a task encodes; `generation`,
`generation_settings` and `languages` of those that write. In an engine: `padding`, `pooling`. On the way out:
`answers`, `generated_text`, `filled_text`. Beside requests: `example` for the contract, `agreement` of two versions,
`scoring`.
"""
