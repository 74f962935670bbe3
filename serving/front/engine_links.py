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
                link = EngineLink(self._context, engine.address, loaded.task, engine.pid)
                loaded.links[engine.address] = link
            link.share.tokens_per_second = max(1.0, engine.tokens_per_second)
            link.share.bound(self._bounds.tokens(link.share.tokens_per_second, longest), self._bounds.bytes())
        loaded.accepting = [loaded.links[engine.address] for engine in engines if engine.accepting]
        shares, tokens = [link.share for link in loaded.accepting], held.share.bound_tokens
        if shares:
            held.share.tokens_per_second = sum(share.tokens_per_second for share in shares)
            tokens = sum(share.bound_tokens for share in shares)
        elif not loaded.links:
            tokens = max(tokens, self._bounds.tokens(0.0, longest))
        held.share.bound(tokens, self._bounds.bytes() * max(1, len(shares)))

    def close(self) -> None:
        """Let go of all sockets. To be called once the links are closed."""
        self._context.destroy(linger=0)


def disconnect(loaded: LoadedVersion, keep: Collection[str] = ()) -> None:
    """Close a version's links, but for those to the addresses `keep`."""
    for address in [address for address in loaded.links if address not in keep]:
        loaded.links.pop(address).close()
