"""The compose file against the Compose Specification, the server, the exported monitoring, and itself."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from monitoring.export import TARGET, files
from serving.kubernetes import pod
from serving.kubernetes.installation import HTTP_PORT
from serving.settings import ServingSettings
from tests.abilities import needs
from tests.deploy.dockerfile import ROOT, environment

FOLDER = ROOT / "deploy/compose"
TEXT = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]


def config(name: str) -> Any:
    return yaml.safe_load(COMPOSE["configs"][name]["content"])


def validate(compose: Any) -> None:
    schema = json.loads((Path(__file__).parent / "schemas/compose-spec.json").read_text(encoding="utf-8"))
    jsonschema_rs.validator_for(schema).validate(compose)


def test_it_keeps_the_compose_specification() -> None:
    validate(COMPOSE)
    broken = COMPOSE | {"services": SERVICES | {"headwaiter": SERVICES["headwaiter"] | {"enviroment": {}}}}
    with pytest.raises(jsonschema_rs.ValidationError, match="enviroment"):
        validate(broken)


def test_what_services_name_is_there() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        assert {entry["source"] for entry in service.get("configs", [])} <= set(COMPOSE["configs"]), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume
        if "dockerfile" in service.get("build", {}):
            context = FOLDER / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()


def test_every_service_is_published_on_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_variables_are_required_and_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)", TEXT))
    given = set(re.findall(r"^(\w+)=", (FOLDER / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    assert asked == given
    assert asked == set(re.findall(r"\$\{(\w+):\?", TEXT))


def test_the_server_takes_its_settings_and_writes_to_its_volume_only() -> None:
    service = SERVICES["headwaiter"]
    given = {name: str(value) for name, value in service["environment"].items() if "$" not in str(value)}
    settings = ServingSettings.from_environment(environment() | given, run=Path())
    assert settings.keys_file is not None
    assert service["read_only"] is True
    assert service["volumes"] == [f"data:{pod.DATA}"]
    assert settings.keys_file.is_relative_to(pod.DATA)
    assert settings.registry.tracking_uri == "http://mlflow:5000"
    assert service["stop_grace_period"] == f"{pod.termination_seconds()}s"
    assert service["ports"] == [f"127.0.0.1:{HTTP_PORT}:{HTTP_PORT}"]


def test_addresses_name_services_and_their_ports() -> None:
    settings = ServingSettings.from_environment(environment(), run=Path())
    (scrape,) = config("prometheus")["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"headwaiter:{settings.admin_port}"]}]
    assert config("grafana")["datasources"][0]["url"] == "http://prometheus:9090"
    mlflow = SERVICES["mlflow"]
    assert "mlflow:5000" in mlflow["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert "@postgres:5432/" in mlflow["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert mlflow["environment"]["MLFLOW_S3_ENDPOINT_URL"] == "http://s3:8333"
    assert "http://s3:8333" in SERVICES["bucket"]["command"][-1]


def test_the_bucket_is_made_by_what_python_understands() -> None:
    python, option, program = SERVICES["bucket"]["command"]
    assert (python, option) == ("python", "-c")
    compile(program, "bucket", "exec")


def test_monitoring_is_as_it_is_exported_but_for_addresses() -> None:
    exported = {path: yaml.safe_load(text) for path, text in files().items() if path.endswith(".yml")}
    own = json.dumps(config("prometheus")).replace("alertmanager:9093", "localhost:9093")
    assert json.loads(own.replace("headwaiter:9000", TARGET)) == exported["prometheus/prometheus.yml"]
    source = json.dumps(config("grafana")).replace("//prometheus:", "//localhost:")
    assert json.loads(source) == exported["grafana/provisioning/datasources/headwaiter.yml"]


def test_versions_are_those_that_are_tested() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    recipe = SERVICES["mlflow"]["build"]["dockerfile_inline"]
    for name in ("mlflow", "psycopg2-binary"):
        assert f" {name}=={pinned[name]} " in recipe
    assert SERVICES["bucket"]["build"] == SERVICES["mlflow"]["build"]
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    assert all(re.search(r":v?\d", image) for image in images)


@needs("promtool")
def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    (tmp_path / "prometheus.yml").write_text(COMPOSE["configs"]["prometheus"]["content"], encoding="utf-8")
    (tmp_path / "rules.yml").write_text((ROOT / "monitoring/prometheus/rules.yml").read_text(encoding="utf-8"))
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
