"""Frozen records that cross a process boundary: messages, orders and reports, routing table, version states.

Manager to engine and back: `engine_orders`, `heartbeat`. Manager to fronts: `routing_table`, with `version_state`.
Front to engine and back: `messages`. Front to manager: `demand`, `registry_orders`, `rollout_counts`. Those that are
files are written by `report_file`.
"""
