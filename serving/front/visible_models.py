"""The served models as the caller of a request may see them: found, described, waited for until loaded, and listed.

`routing` knows all models, `access` what the caller's key may ask. `front` has one `VisibleModels`, which `attempts`
and the protocols ask.
"""

from collections.abc import Mapping

from serving.errors import NotLoaded
from serving.front.access import Access
from serving.front.disconnects import Disconnected
from serving.front.loaded_version import LoadedVersion, UnloadedVersion
from serving.front.meter import count_cold
from serving.front.routing import Routing
from serving.front.waiter import deadline_in
from serving.settings import ServingSettings
from serving.wire.routing_table import ModelEntry


class VisibleModels:
    """The models of one front; each method answers for the caller of the request whose asyncio task calls it."""

    def __init__(self, settings: ServingSettings, access: Access, routing: Routing) -> None:
        self._settings = settings
        self._access = access
        self._routing = routing

    def find(self, name: str, version: str | None) -> LoadedVersion:
        """The version that a request for `name` (or `name@alias`) gets. Raises as `Routing.find`, and Forbidden."""
        if self._access.is_watched:
            self._access.check_model(name)
        if self._access.is_open:
            return self._routing.find(name, version)
        return self._routing.find(name, version, self._visible(self._routing.served_models()))

    def known(self, name: str, version: str | None) -> LoadedVersion | UnloadedVersion:
        """As `find`, but a version that is loaded on demand stays as it is: what is only described is not loaded.

        A page of another origin may send any GET unasked, and a browser does not always say that it comes from one.
        Raises as `find`, and NotLoaded where nothing is known of the version but its number.
        """
        try:
            return self.find(name, version)
        except NotLoaded as missing:
            model, number = missing.key
            contract = self._routing.table.models[model].versions[number].contract
            if contract is None:
                raise
            return UnloadedVersion(model, number, contract)

    async def loaded(
        self, name: str, version: str | None, deadline: float | None = None, disconnected: Disconnected | None = None
    ) -> LoadedVersion:
        """As `find`, once the version is loaded. deadline: in monotonic seconds, the server's own by default.

        Raises as `find`, NotReady where it is not loaded by then, EngineLost where it will not be, and ClientGone.
        """
        deadline = deadline_in(self._settings.timeout_seconds) if deadline is None else deadline
        is_counted = False
        while True:
            try:
                return self.find(name, version)
            except NotLoaded as missing:
                if not is_counted:
                    count_cold(missing.key[0])
                is_counted = True
                await self._routing.demand.wait(missing, deadline, disconnected)

    def all(self) -> Mapping[str, ModelEntry]:
        """Every model in the routing table that the caller may know of, those that are leaving included."""
        return self._visible(self._routing.table.models)

    def served(self) -> Mapping[str, ModelEntry]:
        """The models that take requests, and that the caller may ask."""
        return self._visible(self._routing.served_models())

    def answers(self, name: str, version: str) -> bool:
        """Whether this version of a model that the caller may know of answers here."""
        return self._routing.answers(name, version)

    def _visible(self, models: Mapping[str, ModelEntry]) -> Mapping[str, ModelEntry]:
        """Those that the caller may ask, or see as an operator."""
        key = self._access.caller()
        if key.admin:
            return models
        return {name: entry for name, entry in models.items() if key.may_ask(name)}
