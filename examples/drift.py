"""Ask a model other things than it was evaluated on, and see it in Prometheus, by the product's rules and alert.

    python drift.py [BASE]

BASE: a pretrained encoder, a folder or a name on the hub; without it a small one that a package brings. Where the
program `prometheus` is not installed, the server's own metrics are printed.
"""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import mlflow
from text_classification import REVIEWS, TRAIN, fine_tune

import headwaiter

NAME = "example-drift"
USUAL = [text for text, _ in REVIEWS]
UNUSUAL = [f"since the last update {text}, and nobody answers my letters" for text, label in REVIEWS if label == 0]


def ask(server: httpx.Client, texts: list[str], is_seen: Callable[[], bool]) -> None:
    """Ask about these texts, over and over, until it is seen."""
    for number, text in enumerate(cycle(texts), 1):
        server.post(f"/models/{NAME}", json={"inputs": text}).raise_for_status()
        if number % len(texts) == 0 and is_seen():
            return


@contextmanager
def watch(server: httpx.Client) -> Iterator[httpx.Client]:
    """A Prometheus that watches the server each second: an example cannot wait for the usual intervals."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program, target = Path(sys.executable).with_name("headwaiter"), f"{server.base_url.host}:{server.base_url.port}"
    with TemporaryDirectory() as folder:
        command = [program, "monitoring", "export", folder, "--target", target]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for path in Path(folder, "prometheus").iterdir():
            path.write_text(re.sub(r"interval: \w+", "interval: 1s", path.read_text()))
        options = [f"--config.file={folder}/prometheus/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
        options += [f"--web.listen-address={address}", "--log.level=error"]
        with subprocess.Popen(["prometheus", *options]) as process:
            try:
                with httpx.Client(base_url=f"http://{address}", transport=httpx.HTTPTransport(retries=8)) as prometheus:
                    while prometheus.get("/-/ready").status_code != 200:
                        time.sleep(0.1)
                    yield prometheus
            finally:
                process.terminate()


def drift(prometheus: httpx.Client) -> dict[str, float]:
    """Population stability indices; empty before 100 answers were seen. From 0.25 on the alert is raised."""
    query = {"query": f'headwaiter:drift_psi:1h{{model="{NAME}"}}'}
    found = prometheus.get("/api/v1/query", params=query).json()["data"]["result"]
    return {each["metric"]["of"]: round(float(each["value"][1]), 2) for each in found}


def alerts(prometheus: httpx.Client) -> list[str]:
    """What drifts, as people are told; pending for half an hour first."""
    found = prometheus.get("/api/v1/alerts").json()["data"]["alerts"]
    return sorted(f"{each['state']}: {each['annotations']['summary']}" for each in found if "of" in each["labels"])


def main() -> None:
    headwaiter.connect_mlflow()
    with mlflow.start_run(run_name=NAME):
        trainer = fine_tune(TRAIN)
        mlflow.log_metrics(trainer.evaluate())
        options = {"task": "text-classification", "name": NAME, "sample": USUAL}
        logged = headwaiter.log_model(trainer.model, trainer.processing_class, **options)
    headwaiter.Versions().promote(NAME, logged.version, why="the first one")

    with headwaiter.run_server(NAME) as url, httpx.Client(base_url=url, timeout=60) as server:
        if shutil.which("prometheus"):
            with watch(server) as prometheus:
                ask(server, USUAL, lambda: "label" in drift(prometheus))
                print(f"usual texts: {drift(prometheus)}")
                ask(server, UNUSUAL, lambda: any("label of" in alert for alert in alerts(prometheus)))
                print(f"others: {drift(prometheus)}", *alerts(prometheus), sep="\n")
        else:
            ask(server, USUAL + UNUSUAL * 4, lambda: True)
            shown = "headwaiter_(?:predictions_total|baseline_label_share){.*"
            print(*re.findall(shown, server.get("/metrics").text), sep="\n")
        print(f"answer: {server.post(f'/models/{NAME}', json={'inputs': UNUSUAL[0]}).json()[0][0]['label']}")


if __name__ == "__main__":
    main()
