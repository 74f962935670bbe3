"""The servers that `bench.peer_comparison` measures beside Headwaiter, and how each is installed and started."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as make

from bench.peers.environments import project_pin

CORES = str(len(os.sched_getaffinity(0)))
TRANSFORMERS = ("torch", "transformers")
FASTAPI = ("fastapi", "uvicorn", "uvloop", "httptools")
UVICORN = ("--port", "{port}", "--workers", CORES, "--loop", "uvloop", "--http", "httptools", "--no-access-log")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Peer:
    """A server and how it is had.

    command: what follows `python -m`, with `{port}`, `{model}`, `{export}` and `{home}` (an empty folder) in it; so in
    the values of environment. path, field, in_list: as of `Server`. batches: whether it puts texts of several requests
    into one forward pass. requirements: pip's, of an environment of its own; none: the project's environment has all.
    uses_project_pins: `constraints.txt` holds in it. export: the module that writes `{export}` from `{model}` before.
    """

    name: str
    command: tuple[str, ...]
    path: str = "/"
    field: str = "inputs"
    in_list: bool = False
    batches: bool = False
    requirements: tuple[str, ...] = ()
    uses_project_pins: bool = True
    export: str = ""
    environment: Mapping[str, str] = make(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name of its environment's folder."""
        return self.name.lower().replace(" ", "-").replace("+", "and")


PLAIN_BENTOML = Peer(
    "plain BentoML",
    ("bentoml", "serve", "bench.peers.plain_bentoml:Plain", "--port", "{port}"),
    path="/classify",
    field="texts",
    in_list=True,
    batches=True,
    environment={"BENTOML_HOME": "{home}", "BENTOML_DO_NOT_TRACK": "True"},
)
LITSERVE = Peer(
    "LitServe",
    ("bench.peers.litserve_app", "{port}"),
    path="/predict",
    batches=True,
    requirements=("litserve==0.2.19", *TRANSFORMERS),
)
RAY_SERVE = Peer(
    "Ray Serve",
    ("bench.peers.ray_serve", "{port}"),
    batches=True,
    requirements=("ray[serve]==2.60.0", *TRANSFORMERS),
    environment={"RAY_USAGE_STATS_ENABLED": "0"},
)
INFINITY = Peer(
    "Infinity",
    (
        *("infinity_emb.cli", "v2", "--model-id", "{model}", "--port", "{port}", "--log-level", "warning"),
        *("--engine", "torch", "--device", "cpu", "--dtype", "{dtype}"),
        *("--batch-size", "64"),  # as many as the clients allow; it sorts what waits by length by itself
        "--no-bettertransformer",  # the installed transformers has scaled dot product attention of its own
    ),
    path="/classify",
    field="input",
    in_list=True,
    batches=True,
    requirements=("infinity-emb[torch,server]==0.0.78", "transformers==4.57.6", project_pin("torch")),
    uses_project_pins=False,  # it wants older releases than the project
    environment={"INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"},
)
MLFLOW = Peer(
    "mlflow models serve",
    # a worker for each core with one thread each: nothing is batched, and one process would hold back all by its GIL
    ("mlflow", "models", "serve", "-m", "{export}", "--env-manager", "local", "--port", "{port}", "--workers", CORES),
    path="/invocations",
    in_list=True,
    export="bench.peers.export_mlflow",
    environment={"MLFLOW_TRACKING_URI": "sqlite:///{home}/mlflow.db", **ONE_THREAD},
)
PIPELINE = Peer(
    "FastAPI + pipeline",
    ("uvicorn", "bench.peers.fastapi_pipeline:app", *UVICORN),
    requirements=(*FASTAPI, *TRANSFORMERS),
    environment=ONE_THREAD,
)
ONNX = Peer(
    "FastAPI + ONNX Runtime",
    ("uvicorn", "bench.peers.fastapi_onnx:app", *UVICORN),
    requirements=("onnxruntime==1.32.0", "onnx==1.23.2", "sympy", *FASTAPI, *TRANSFORMERS),
    export="bench.peers.export_onnx",
    environment=ONE_THREAD,
)
OPENVINO = Peer(
    "FastAPI + OpenVINO",
    ("uvicorn", "bench.peers.fastapi_openvino:app", *UVICORN),
    requirements=("openvino==2026.4.1", *FASTAPI, *TRANSFORMERS),
    export="bench.peers.export_openvino",
    environment=ONE_THREAD,
)
PEERS = (PLAIN_BENTOML, LITSERVE, RAY_SERVE, INFINITY, MLFLOW, PIPELINE, ONNX, OPENVINO)
