"""The products beside Headwaiter in a real installation: an S3 store and HAProxy. `tests.e2e` has the others."""

import csv
import io
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.e2e.server import Server, free_port, is_free, wait_until
from tests.waiting import WAIT_SECONDS

SHIPPED = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
BUCKET = "artifacts"


class S3Store:
    """An S3 server, moto's, in a thread of this process: it keeps its objects while it is away. A context manager."""

    def __init__(self) -> None:
        self.port = free_port()
        self.environ = {
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "of the test",
            "AWS_SECRET_ACCESS_KEY": "of the test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.address = f"s3://{BUCKET}"
        self._server: Any = None

    def __enter__(self) -> Self:
        import boto3

        self.start()
        store = boto3.client(
            "s3",
            endpoint_url=self.environ["MLFLOW_S3_ENDPOINT_URL"],
            aws_access_key_id=self.environ["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environ["AWS_SECRET_ACCESS_KEY"],
            region_name=self.environ["AWS_DEFAULT_REGION"],
        )
        store.create_bucket(Bucket=BUCKET)
        store.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Answer (again)."""
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.stop()
            self._server = None
            wait_until(lambda: is_free(self.port), "the store has left its port")


class HAProxy:
    """HAProxy with the shipped configuration, but for its addresses. Use it as a context manager."""

    def __init__(self, folder: Path, servers: dict[str, tuple[Server, int]]) -> None:
        """servers: name in the configuration → server, and its admin port."""
        self.port = free_port()
        self._config, self._socket, self._log = folder / "haproxy.cfg", folder / "haproxy.sock", folder / "haproxy.log"
        text = _replaced(SHIPPED.read_text(encoding="utf-8"), r"bind :\d+", f"bind 127.0.0.1:{self.port}")
        text = _replaced(text, r"^global$", f"global\n    stats socket {self._socket}")
        for name, (server, admin) in servers.items():
            text = _replaced(text, rf"server {name} \S+", f"server {name} 127.0.0.1:{server.port} port {admin}")
        self._config.write_text(text, encoding="utf-8")

    def __enter__(self) -> Self:
        program = shutil.which("haproxy") or "haproxy"
        with self._log.open("w") as log:
            self._process = subprocess.Popen([program, "-db", "-f", self._config], stdout=log, stderr=log)
        try:
            wait_until(lambda: not is_free(self.port), "HAProxy takes connections", log=self._log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(WAIT_SECONDS)

    def is_up(self, name: str) -> bool:
        """Whether the server of this name gets requests."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(WAIT_SECONDS)
            connection.connect(str(self._socket))
            connection.sendall(b"show stat\n")
            with connection.makefile(encoding="utf-8") as answer:
                table = answer.read()
        rows = csv.DictReader(io.StringIO(table.removeprefix("# ")))
        return next(row["status"] for row in rows if row["svname"] == name).startswith("UP")


def _replaced(text: str, pattern: str, by: str) -> str:
    changed, count = re.subn(pattern, by, text, flags=re.MULTILINE)
    assert count == 1, f"{pattern} stands {count} times in {SHIPPED.name}"
    return changed
