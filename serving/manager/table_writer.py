"""Writes the routing table whenever it has changed."""

import logging

from serving.wire.routing_table import Table, TableFile

logger = logging.getLogger("headwaiter.manager")


class TableWriter:
    """The one writer of a server's routing table."""

    def __init__(self, file: TableFile) -> None:
        self._file = file
        self._table: Table | None = None
        self._is_unwritten = False

    def publish(self, table: Table) -> None:
        """Replace the table if it differs from the last one; on a full disk the next call tries again."""
        if table == self._table:
            return
        try:
            self._file.write(table)
        except OSError as error:  # a full disk: fronts go on by the last table, and it is tried again each turn
            if not self._is_unwritten:
                logger.error("the routing table cannot be written, the last one holds: %s", error)
            self._is_unwritten = True
            return
        self._table, self._is_unwritten = table, False
