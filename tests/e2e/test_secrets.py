"""A registry's address with a password in it: neither answers nor the log show it."""

from pathlib import Path

import pytest

from tests.e2e.server import Server, wait_until

SECRET = "hidden-word"


def test_a_password_in_the_registrys_address_is_never_shown(tmp_path_factory: pytest.TempPathFactory) -> None:
    home: Path = tmp_path_factory.mktemp("h")  # sockets need a short path
    environ = {"MLFLOW_TRACKING_URI": f"http://user:{SECRET}@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with Server(home, ("two",), environ, wait=False) as server:
        shown: list[str] = []

        def is_shown() -> bool:
            shown.append(server.http.get("/models").json().get("registry_error") or "")
            return "http://***@127.0.0.1:9" in shown[-1]

        wait_until(is_shown, "the address is told, without its password")
        refused = server.post("two", {"inputs": "x"})
        texts = [*shown, refused.text, server.http.get("/readyz").text, server.http.get("/metrics").text]
    assert refused.status_code >= 400
    log = server.log.read_text()
    assert "the registry cannot be read" in log
    assert not [text for text in (*texts, log) if SECRET in text]
