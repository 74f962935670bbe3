"""The BentoML services: `Headwaiter`, whose workers are the fronts, and the manager that it depends on.

`bentoml serve serving.service:Headwaiter` runs both; `headwaiter serve` does that with its flags in the environment.
The data plane bypasses BentoML's middleware, which costs more than a small model's forward pass. BentoML provides the
rest: processes, health routes, the typed API and its OpenAPI page, `bentoml build`.
"""

import asyncio
import gc
import logging
import os
import sys
import threading
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
import click
from _bentoml_sdk import Service
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from bentoml.exceptions import BentoMLException

from registry.environment import InvalidSetting, settings_of
from registry.settings import prepare_mlflow
from serving.runtime.deferred_proxy import defer_proxy
from serving.runtime.exposure import bound_host, check_access, check_exposure
from serving.runtime.logs import quiet_pillow, set_up_logging
from serving.runtime.run_folder import RUN_VARIABLE, claim
from serving.runtime.server_process import at_end, end_process, end_with_server
from serving.runtime.supervisor import LEAVE_SECONDS, SHUT_DOWN_SECONDS, supervise
from serving.runtime.tls_files import TlsFiles
from serving.settings import ServingSettings

if TYPE_CHECKING:
    from serving.front.front import Companion, Front

logger = logging.getLogger("headwaiter.manager")
defer_proxy()  # before BentoML makes the app of a worker

_QUIET = {
    "metrics": {"enabled": False},  # the data plane has its own; BentoML's label every raw path
    "logging": {"access": {"enabled": False}},
    "tracing": {"excluded_urls": ".*"},  # spans are recorded even when they are not sampled
}


class Refused(BentoMLException):
    """BentoML shows it without a traceback."""


@cache
def front() -> "Front":
    """The front of this worker process."""
    from serving.front.front import Front

    set_up_logging()
    settings = ServingSettings.from_environment()
    end_with_server(settings.run, settings.grace_seconds)
    worker = bentoml.server_context.worker_index or 1  # a worker that replaces another gets its number
    return Front(settings, place=(worker - 1) % settings.workers)


class FrontService(Service[Any]):
    """A BentoML service whose ASGI app has the data plane before it."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """BentoML's hook: the app that a worker serves. The front is imported here, as the manager needs none."""
        from serving.front.admin_port import AdminPort
        from serving.front.app import DataPlane
        from serving.front.certificate import Certificate
        from serving.front.connection_choice import choose_connection
        from serving.front.cross_origin import allow_origins

        host = _check_listener()
        inner = super().to_asgi(is_main=is_main)
        _leave_out_timeouts(inner)
        _leave_out_redirects(inner)
        plane = DataPlane(front(), inner)
        chosen = choose_connection(plane.huggingface)
        if front().settings.admin_port:
            front().companions.append(AdminPort(front(), host or "127.0.0.1", is_bounded=chosen is not None))
        if front().settings.grpc_port:
            front().companions.append(_grpc_port(host or "127.0.0.1"))
        tls = TlsFiles.from_options(_command_line())
        if tls is not None:
            Certificate.current = front().certificate = Certificate(tls)
        return allow_origins(plane, front().settings.cors_origins)


@bentoml.service(name="headwaiter_manager", workers=1, **_QUIET)
class ManagerService:
    """Reads the registry, starts and stops engines, publishes the routing table. It has no API of its own."""

    def __init__(self) -> None:
        from serving.manager.manager import Manager
        from serving.manager.registry_desk import RegistryDesk
        from serving.manager.rollout.keeper import RolloutKeeper

        set_up_logging()
        prepare_mlflow(os.environ)
        settings = ServingSettings.from_environment()
        self._loop = Manager(settings, rollouts=partial(RolloutKeeper, settings))
        self._desk = RegistryDesk(settings)
        end_with_server(settings.run, settings.grace_seconds + SHUT_DOWN_SECONDS)
        self._thread = threading.Thread(target=self._run, name="headwaiter-manager")
        self._thread.start()

    def _run(self) -> None:
        """Run the loop; this process ends with it, however it ends, and does not wait for what other threads do."""
        try:
            self._loop.run()
        except BaseException:  # a library in Rust that panics raises no Exception
            logger.critical("the manager ended by an error: the next one goes on from here", exc_info=True)
        end_process(LEAVE_SECONDS)

    def __is_alive__(self) -> bool:
        return self._thread.is_alive()

    @bentoml.on_shutdown
    async def shut_down(self) -> None:
        """Wait for the fronts, then end the engines."""
        self._desk.close()
        self._loop.stop()
        await asyncio.to_thread(self._thread.join)


@bentoml.service(
    name="headwaiter",
    service_class=FrontService,
    workers=settings_of(ServingSettings)["workers"].read(os.environ),
    **_QUIET,
)
class Headwaiter:
    """Serves fine-tuned Hugging Face models from an MLflow registry.

    The same models answer at `POST /models/{model}`; `GET /models` lists them with their versions and contracts.
    """

    manager = bentoml.depends(ManagerService)

    @bentoml.on_deployment
    def begin() -> None:  # BentoML makes it a static method
        """In the server process, before it starts the others: claim the run folder, and tell them and the supervisor.

        Raises Refused where strangers could ask.
        """
        try:
            settings = ServingSettings.from_environment(run=Path())
            options = _command_line()
            host = options.get("host") or BentoMLContainer.http.host.get()
            tls = check_access(host if "host" in options else None, settings)  # where a program starts it, workers look
            if tls != TlsFiles.from_options(options) and tls is not None:
                raise InvalidSetting(
                    f"HEADWAITER_TLS_CERT is read by `headwaiter serve`; give bentoml serve {' '.join(tls.options())}"
                )
            os.umask(0o077)  # files and sockets of all processes are this user's alone
            with settings.registry.home_errors():
                os.environ[RUN_VARIABLE] = str(claim(settings.registry.home).path)
        except InvalidSetting as error:
            raise Refused(str(error)) from error
        supervise(settings.grace_seconds + SHUT_DOWN_SECONDS)

    @bentoml.on_startup
    async def start(self) -> None:
        """Follow the routing table."""
        _settle_process()
        at_end(front().leave)
        await front().start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Close the connections to the engines."""
        await front().stop()

    @bentoml.api
    async def predict(
        self,
        model: str,
        inputs: Any,
        parameters: dict[str, Any] | None = None,
        version: str | None = None,
        *,
        ctx: bentoml.Context,
    ) -> Any:
        """Answer one input or a list of inputs with a model's live version, or with the version that is named."""
        from serving.front.protocols.bentoml import PredictForm, predict

        answer = await predict(front(), PredictForm(model, inputs, parameters, version), ctx.request.headers.raw)
        ctx.response.status_code = answer.status_code  # BentoML writes this one
        return answer

    async def __is_alive__(self) -> bool:
        return front().is_alive()

    async def __is_ready__(self) -> bool:
        return front().is_ready()


def _command_line() -> dict[str, Any]:
    """The options of the BentoML command that this process runs."""
    context = click.get_current_context(silent=True)
    return dict(context.params) if context is not None else {}


def _grpc_port(host: str) -> "Companion":
    """The port of gRPC."""
    from serving.front.connection import Connection
    from serving.front.rpc.port import GrpcPort

    return GrpcPort(front(), host, Connection.guard)


def _check_listener() -> str | None:
    """The address that this worker is to answer at, None for no address of TCP.

    Ends the worker if strangers could ask there, whoever chose the address.
    """
    descriptor = _command_line().get("fd")
    host = bound_host(descriptor) if descriptor is not None else None
    if host is not None:
        try:
            check_exposure(host, front().settings)
        except InvalidSetting as error:
            sys.exit(f"Error: {error}")
    return host


def _leave_out_timeouts(app: Any) -> None:
    """Take BentoML's deadline out of its app, before it serves: requests have their own.

    An error before the first byte of an answer leaves it waiting for the whole time (read in BentoML 1.4.39).
    """
    app.user_middleware = [each for each in app.user_middleware if each.cls is not TimeoutMiddleware]


def _leave_out_redirects(app: Any) -> None:
    """Let no path of BentoML's app be redirected: the address would come from the client's `Host`."""
    app.router.redirect_slashes = False


def _settle_process() -> None:
    """Set this worker process' global state, once everything is imported."""
    from serving.front.protocols.bentoml import quiet_refusals

    # BentoML's readiness would ask the manager, too. A front serves what is loaded while another manager starts.
    BentoMLContainer.api_server_config.runner_probe.enabled.set(False)

    access = logging.getLogger("uvicorn.access")  # with handlers, uvicorn formats a line for each request
    access.handlers, access.propagate = [], False
    quiet_refusals()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time needs no pool of threads
    quiet_pillow()
    gc.collect()
    gc.freeze()  # imported objects stay: the collector need not scan them while requests are served
