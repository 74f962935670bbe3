"""Setting up: where torch comes from, what uv is told of pip's configuration, and what happens where uv fails."""

import http.server
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from scripts import install
from scripts.install import (
    CPU_INDEX,
    Installer,
    TorchSource,
    answers,
    choose_torch_source,
    read_pip_config,
    to_environment,
    to_uv_options,
)
from tests.waiting import WAIT_SECONDS

BEST_MATCH = ["--index-strategy", "unsafe-best-match"]


@pytest.mark.parametrize(
    ("environ", "platform", "has_gpu", "index", "is_required"),
    [
        ({}, "linux", False, CPU_INDEX, False),
        ({}, "linux", True, "", False),
        ({}, "darwin", False, "", False),
        ({"TORCH_INDEX": "https://example.org/torch"}, "linux", False, "https://example.org/torch", True),
        ({"TORCH_INDEX": "https://example.org/torch"}, "linux", True, "https://example.org/torch", True),
        ({"TORCH_INDEX": ""}, "linux", False, "", False),
    ],
)
def test_torch_comes_from_the_cpu_index_only_where_it_is_needed(
    environ: dict[str, str], platform: str, has_gpu: bool, index: str, is_required: bool
) -> None:
    source = choose_torch_source(environ, platform, has_gpu)
    assert (source.index, source.is_required) == (index, is_required)


@pytest.mark.parametrize(
    ("listing", "options"),
    [
        ("", []),
        ("global.index-url='https://mirror/simple'\n", ["--default-index", "https://mirror/simple"]),
        (
            "global.extra-index-url='https://a/simple https://b/simple'\nglobal.find-links='/wheels'\n",
            ["--index", "https://a/simple", "--index", "https://b/simple", "--find-links", "/wheels", *BEST_MATCH],
        ),
        (
            "global.extra-index-url='\\nhttps://a/simple\\nhttps://b/simple'\n",
            ["--index", "https://a/simple", "--index", "https://b/simple", *BEST_MATCH],
        ),
        (
            ":env:.index-url='https://environment'\nglobal.index-url='https://global'\ninstall.index-url='https://i'\n",
            ["--default-index", "https://environment"],
        ),
        (
            "install.index-url='https://install'\nglobal.index-url='https://global'\ndownload.index-url='https://d'\n",
            ["--default-index", "https://install"],
        ),
        ("global.no-index='true'\n", ["--no-index"]),
        ("global.no-index='false'\nglobal.timeout='60'\n", []),
        ("global.constraint='/etc/pins.txt'\n", ["--constraints", "/etc/pins.txt"]),
        ("global.trusted-host='mirror'\n", ["--allow-insecure-host", "mirror"]),
    ],
)
def test_uv_is_given_the_sources_that_pip_is_configured_with(listing: str, options: list[str]) -> None:
    assert to_uv_options(read_pip_config(listing)) == options


def test_uv_is_given_the_certificates_and_the_proxy_of_pip() -> None:
    assert to_environment({}) == {"UV_SYSTEM_CERTS": "1"}
    assert to_environment({"cert": "/ca.pem", "proxy": "http://proxy:3128"}) == {
        "UV_SYSTEM_CERTS": "1",
        "SSL_CERT_FILE": "/ca.pem",
        "HTTP_PROXY": "http://proxy:3128",
        "HTTPS_PROXY": "http://proxy:3128",
    }


@pytest.mark.slow
def test_the_form_of_pip_config_list_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nfind-links = /a\n    /b\n[install]\nindex-url = https://it's/simple\n", encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environ |= {"PIP_CONFIG_FILE": str(file), "PIP_EXTRA_INDEX_URL": "https://c/simple"}
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], env=environ, capture_output=True, text=True, check=True
    ).stdout
    config = read_pip_config(listing)
    assert config["find-links"].split() == ["/a", "/b"]
    assert config["index-url"] == "https://it's/simple"
    assert config["extra-index-url"] == "https://c/simple"


@pytest.fixture
def index() -> Iterator[str]:
    """An index that answers every request with 200."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/torch/" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_an_index_answers_or_it_does_not(index: str) -> None:
    assert answers(f"{index}/", WAIT_SECONDS)
    assert not answers(f"{index}/elsewhere", WAIT_SECONDS)


@pytest.mark.slow
def test_an_index_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}", seconds=1)


class Environment:
    """A folder that looks like a virtual environment, whose programs write down what they were asked."""

    def __init__(self, root: Path, uv_status: int, pip_status: int = 0) -> None:
        self.root = root
        self.calls = root / "calls"
        (root / "bin").mkdir()
        config = 'case "$*" in *"config list") exit 0;; esac\n'
        for name, status in (("uv", uv_status), ("python", pip_status)):
            program = root / "bin" / name
            script = f'#!/bin/sh\n{config}printf "%s|" {name} "$@" >>"{self.calls}"; echo >>"{self.calls}"\n'
            program.write_text(f"{script}exit {status}\n", encoding="utf-8")
            program.chmod(0o755)

    def asked(self) -> list[tuple[str, bool]]:
        """(program, whether it was asked for torch) of each call, but for uv's own installation."""
        lines = [line.split("|") for line in self.calls.read_text(encoding="utf-8").splitlines()]
        return [(words[0], "torch" in words) for words in lines if "uv" not in words[1:]]


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that are set are not kept, and an index has time to answer: its request is a process to start."""
    monkeypatch.setattr(install, "answers", partial(answers, seconds=WAIT_SECONDS))
    for name in ("UV_SYSTEM_CERTS", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "")


@pytest.mark.usefixtures("environ")
@pytest.mark.parametrize(
    ("uv_status", "answered", "asked"),
    [
        (0, True, [("uv", True), ("uv", False)]),
        (2, True, [("uv", True), ("python", True), ("uv", False), ("python", False)]),
        (0, False, [("uv", False)]),
        (2, False, [("uv", False), ("python", False)]),
    ],
)
def test_pip_does_what_uv_cannot_and_a_silent_index_is_passed_over(
    tmp_path: Path, index: str, uv_status: int, answered: bool, asked: list[tuple[str, bool]]
) -> None:
    root = tmp_path / "with a space"
    root.mkdir()
    environment = Environment(root, uv_status)
    installer = Installer(root)
    installer.get_uv()
    installer.install_torch(TorchSource(index if answered else f"{index}/elsewhere", "this is a test"))
    installer.install_project()
    assert environment.asked() == asked


@pytest.mark.usefixtures("environ")
def test_a_required_index_that_fails_ends_it(tmp_path: Path) -> None:
    Environment(tmp_path, uv_status=2, pip_status=1)
    with pytest.raises(SystemExit, match="TORCH_INDEX=https://example"):
        Installer(tmp_path).install_torch(TorchSource("https://example.invalid", "TORCH_INDEX", is_required=True))


@pytest.mark.usefixtures("environ")
def test_without_uv_pip_installs_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Environment(tmp_path, uv_status=0, pip_status=1)
    installer = Installer(tmp_path)
    installer.get_uv()
    assert installer.uv is None
    assert "pip installs everything" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="cannot be installed"):
        installer.install_project()
