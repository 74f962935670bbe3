"""What crosses a process boundary, frozen: messages, orders and reports, the routing table, a version's states."""
