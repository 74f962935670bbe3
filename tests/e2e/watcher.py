"""Monitoring for end-to-end tests: a real Prometheus, a collector of traces, and background traffic."""

import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e.server import free_port, wait_until
from tests.waiting import WAIT_SECONDS


class Prometheus:
    """A Prometheus process with the shipped configuration and its data in `folder`. Use it as a context manager."""

    def __init__(self, config: Path, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "prometheus.log"
        self._command = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
        ]
        self.http = httpx.Client(base_url=self.url, timeout=WAIT_SECONDS)

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        wait_until(lambda: self.http.get("/-/ready").status_code == 200, "Prometheus is ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self._process.terminate()
        self._process.wait(WAIT_SECONDS)

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the samples of an instant query. An error fails the test. at: in seconds since the epoch; now."""
        when = {} if at is None else {"time": f"{at:.3f}"}
        answer = self.http.get("/api/v1/query", params={"query": expression, **when}).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def exemplars(self, series: str) -> list[dict[str, Any]]:
        """Return the exemplars of a series, of the last hour."""
        answer = self.http.get("/api/v1/query_exemplars", params={"query": series, "start": time.time() - 3600}).json()
        return [exemplar for found in answer["data"] for exemplar in found["exemplars"]]

    def rules(self) -> list[dict[str, Any]]:
        """Return every loaded rule with its health."""
        groups = self.http.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


class Collector:
    """A collector that takes traces by OTLP over HTTP. spans: those received. Use it as a context manager."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                message = ExportTraceServiceRequest.FromString(body)
                for resource in message.resource_spans:
                    for scope in resource.scope_spans:
                        outer.spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Traffic(threading.Thread):
    """Calls `send` repeatedly until it is stopped, with a short pause between two calls."""

    def __init__(self, send: Callable[[int], None]) -> None:
        super().__init__()
        self._send, self._stop_event = send, threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        number = 0
        try:
            while not self._stop_event.wait(0.02):
                self._send(number)
                number += 1
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self.join()
        if self.error is not None:
            raise self.error
