"""The links of loaded versions to their engines: made, bounded and closed as the routing table says."""

from collections.abc import Collection, Sequence

import zmq

from serving.front.admission import QueueBounds
from serving.front.engine_link import EngineLink
from serving.front.loaded_version import LoadedVersion
from serving.wire.routing_table import EngineEntry


class EngineLinks:
    """Connects the versions of one front. Construct it anywhere; the rest in the front's event loop."""

    def __init__(self, bounds: QueueBounds) -> None:
        self._bounds = bounds
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)

    def connect(self, loaded: LoadedVersion, engines: Sequence[EngineEntry]) -> None:
        """Have a link to each of the engines, and know which of them take requests. Raises what connecting raises."""
        longest, held = loaded.contract.max_tokens, loaded.held
        for engine in engines:
            link = loaded.links.get(engine.address)
            if link is not None and (link.pid != engine.pid or link.is_closed):  # it has ended, or was left
                link.close()
                link = None
            if link is None:
                link = EngineLink(self._context, engine.address, loaded.task, 0, engine.pid)
                loaded.links[engine.address] = link
            link.tokens_per_second = max(1.0, engine.tokens_per_second)
            link.bound_tokens = self._bounds.tokens(link.tokens_per_second, longest)
            link.bound_bytes = self._bounds.bytes()
        loaded.accepting = [loaded.links[engine.address] for engine in engines if engine.accepting]
        held.bound_bytes = self._bounds.bytes() * max(1, len(loaded.accepting))
        if loaded.accepting:
            held.tokens_per_second = sum(link.tokens_per_second for link in loaded.accepting)
            held.bound_tokens = sum(link.bound_tokens for link in loaded.accepting)
        elif not loaded.links:
            held.bound_tokens = max(held.bound_tokens, self._bounds.tokens(0.0, longest))

    def close(self) -> None:
        """Let go of all sockets. To be called once the links are closed."""
        self._context.destroy(linger=0)


def disconnect(loaded: LoadedVersion, keep: Collection[str] = ()) -> None:
    """Close a version's links, but for those to the addresses `keep`."""
    for address in [address for address in loaded.links if address not in keep]:
        loaded.links.pop(address).close()
