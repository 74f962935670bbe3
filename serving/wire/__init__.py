"""Frozen records that cross a process boundary: messages, orders and reports, routing table, version states."""
