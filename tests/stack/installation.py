"""A whole installation: PostgreSQL, S3, MLflow on both, two Headwaiter servers behind HAProxy, and Prometheus."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from registry.flavor import log_model
from registry.settings import RegistrySettings
from registry.versions import Versions
from tests.e2e.registries import MlflowServer, Postgres, find_postgres
from tests.e2e.server import Server, free_port, invoke, wait_until
from tests.e2e.watcher import Prometheus
from tests.small_models import build_model
from tests.stack.products import HAProxy, S3Store

NAMES = ("one", "two")
POLL_SECONDS = 2.0
VERSIONS = 4


@dataclass
class Installation:
    """Everything that runs. servers: by their names in HAProxy's configuration. operator: who promotes, elsewhere."""

    database: Postgres
    store: S3Store
    mlflow: MlflowServer
    proxy: HAProxy
    prometheus: Prometheus
    servers: dict[str, Server]
    operator: Versions
    stack: ExitStack

    def settle(self, version: str = "1") -> None:
        """Wait until all is well, and this version is live everywhere."""
        self.operator.promote("m", version, why="to begin with")
        self.wait_for(version)
        wait_until(lambda: all(map(self.proxy.is_up, NAMES)), "HAProxy sends requests to both")

    def wait_for(self, version: str) -> None:
        """Wait until this version is live everywhere."""
        wait_until(lambda: all(each.live("m") == version for each in self.servers.values()), f"{version} is live")

    def restart(self, name: str) -> None:
        """Start the server again, at the same address and home; it has ended."""
        before = self.servers[name]
        server = Server(before.home, before.models, before.environ, port=before.port)
        self.servers[name] = self.stack.enter_context(server)
        wait_until(lambda: self.proxy.is_up(name), f"HAProxy sends requests to {name}")


def install(folder: Path, homes: list[Path], stack: ExitStack) -> Installation:
    """Start everything, with VERSIONS versions of the model "m", the first one live. homes: of the servers."""
    programs = find_postgres()
    assert programs is not None
    database = stack.enter_context(Postgres(programs))
    store = stack.enter_context(S3Store())
    mlflow = stack.enter_context(MlflowServer(folder, database.url, store.environ, artifacts=store.address))
    settings = RegistrySettings(folder, mlflow.url)
    for seed in range(VERSIONS):
        checkpoint = build_model(folder / f"seed-{seed}", "single", seed)
        log_model(checkpoint, task="text-classification", name="m", settings=settings)
    operator = Versions(settings)
    operator.promote("m", "1", why="the first one")
    admin = {name: free_port() for name in NAMES}
    servers = {
        name: Server(
            home,
            ("m",),
            {
                "MLFLOW_TRACKING_URI": mlflow.url,
                "HEADWAITER_ADMIN_PORT": str(admin[name]),
                "HEADWAITER_POLL_SECONDS": str(POLL_SECONDS),
                "HEADWAITER_RETRY_SECONDS": "1",
            },
            wait=False,
        )
        for name, home in zip(NAMES, homes, strict=True)
    }
    for server in servers.values():
        stack.enter_context(server)
    proxy = stack.enter_context(HAProxy(folder, {name: (servers[name], admin[name]) for name in NAMES}))
    targets = [option for name in NAMES for option in ("--target", f"127.0.0.1:{admin[name]}")]
    invoke(folder, "monitoring", "export", str(folder / "monitoring"), *targets)
    config = folder / "monitoring" / "prometheus" / "prometheus.yml"
    config.write_text(config.read_text("utf-8").replace("scrape_interval: 5s", "scrape_interval: 1s"), "utf-8")
    prometheus = stack.enter_context(Prometheus(config, folder))
    for server in servers.values():
        wait_until(server.is_ready, "ready: ", log=server.log)
    return Installation(database, store, mlflow, proxy, prometheus, servers, operator, stack)
