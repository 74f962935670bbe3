from typing import Any

import pytest

from serving.commands.status_text import render_status
from serving.front.model_description import describe_model
from serving.manager.engine_process import EngineProcess
from serving.manager.managed_version import ManagedVersion
from serving.wire.engine_orders import EngineOrder, EngineReport
from serving.wire.routing_table import EngineEntry, ModelEntry, RolloutEntry, Swap, VersionEntry

NOW = 1_700_000_000.0
NOTES = ("weights are not prepacked: no AVX-512",)


def engine(pid: int, device: str = "cpu", note: str = "", notes: tuple[str, ...] = ()) -> EngineEntry:
    return EngineEntry(
        address="ipc:///somewhere",
        pid=pid,
        device=device,
        dtype="float32",
        dtype_note=note,
        notes=notes,
        budget_tokens=512,
        tokens_per_second=1.0,
        accepting=True,
    )


def listed(*models: tuple[str, ModelEntry], registry_error: str | None = None) -> dict[str, Any]:
    return {"models": [describe_model(name, entry) for name, entry in models], "registry_error": registry_error}


def test_what_bounds_the_server_comes_first() -> None:
    machine = {"cores": 2, "machine_cores": 64, "cores_by": "control group", "oom_kills": 0}
    machine |= {"memory_bytes": 2**30, "machine_memory_bytes": 2**38, "memory_by": "control group"}
    found = {**listed(), "machine": {**machine, "available_bytes": 300 << 20}}
    first = "cores: 2 of 64 (control group)  memory: 1,024 MiB of 262,144 MiB (control group), 300 MiB free"
    assert render_status(found, NOW).splitlines()[0] == first
    found["machine"]["oom_kills"] = 3
    assert render_status(found, NOW).splitlines()[0] == f"{first}  oom kills: 3"


def test_a_version_that_is_not_loaded_is_ready_all_the_same() -> None:
    entry = ModelEntry(live="1", aliases={"champion": "1"}, versions={"1": VersionEntry(state="unloaded")})
    machine = {"cores": 2, "machine_cores": 2, "cores_by": "machine", "oom_kills": 0, "memory_by": "machine"}
    machine |= {"memory_bytes": 2**30, "machine_memory_bytes": 2**30, "available_bytes": 300 << 20}
    found = {**listed(("m", entry)), "machine": machine}
    found["engine_memory"] = {"limit_bytes": 800 << 20, "taken_bytes": 100 << 20}
    shown = render_status(found, NOW).splitlines()
    assert shown[1] == "engines: 100 MiB of at most 800 MiB"
    assert "ready, not loaded  champion" in shown[-1]


REVIEWS = ModelEntry(
    live="9",
    aliases={"champion": "9", "canary": "10"},
    versions={
        "10": VersionEntry(
            state="ready",
            memory_bytes=3 * 2**30,
            restarts=2,
            engines=(engine(17, "cuda:0"), engine(123456, "cuda:1", "the example differs in bfloat16")),
        ),
        "9": VersionEntry(state="ready", memory_bytes=120 * 2**20, engines=(engine(16),)),
        "8": VersionEntry(state="ready", memory_bytes=5 * 2**20, engines=(engine(15, notes=NOTES),)),
        "11": VersionEntry(state="failed", attempt=3, error="DigestMismatch: config.json has sha256 0"),
    },
    previous={"reviews@champion": ["8"]},
    swaps=(
        Swap(
            time=NOW - 90_000,
            reference="reviews@champion",
            from_version=None,
            to_version="8",
            outcome="success",
            seconds=8.04,
        ),
        Swap(
            time=NOW - 12,
            reference="reviews@champion",
            from_version="9",
            to_version="11",
            outcome="failure",
            seconds=0.5,
            error="DigestMismatch: config.json has sha256 0",
        ),
    ),
)


def test_versions_engines_memory_and_swaps_stand_in_columns() -> None:
    assert (
        render_status(listed(("reviews", REVIEWS)), NOW)
        == """\
reviews  live: 9  champion → 9  canary → 10
  version  state   role         memory  restarts     pid  device  dtype    task
  8        ready   previous      5 MiB         0      15  cpu     float32  -
    cpu: weights are not prepacked: no AVX-512
  9        ready   champion    120 MiB         0      16  cpu     float32  -
  10       ready   canary    3,072 MiB         2      17  cuda:0  float32  -
                                                  123456  cuda:1  float32
    cuda:1: the example differs in bfloat16
  11       failed  -                 -         0       -  -       -        -
    attempt 3: DigestMismatch: config.json has sha256 0
  recent swaps
  2023-11-14 22:13:08 UTC  12 s ago  reviews@champion  9 → 11    failure  0.5 s
    DigestMismatch: config.json has sha256 0
  2023-11-13 21:13:20 UTC   1 d ago  reviews@champion  none → 8  success  8.0 s"""
    )


def test_a_rollout_stands_below_the_model() -> None:
    rollout = RolloutEntry(
        id="r",
        step=1,
        alias="champion",
        stable="9",
        candidate="10",
        weight=0.01,
        is_shadowing=False,
        salt="secret",
        verdicts={"errors": 1, "p99": 0},
        phase="running",
        steps=("shadow:200", "1%", "100%"),
    )
    found = listed(("m", ModelEntry(live="9", aliases={"champion": "9"}, versions={}, rollout=rollout)))
    assert render_status(found, NOW).splitlines()[1] == (
        "  rollout of champion  9 → 10  running  shadow:200  [1%]  100%  errors: pass, p99: inconclusive"
    )
    assert found["models"][0]["rollout"]["weight"] == 0.01
    assert "secret" not in str(found), "whoever knows the salt can choose a side"


def test_a_model_without_a_version_and_a_registry_in_trouble_are_said_first() -> None:
    entry = ModelEntry(live=None, aliases={"champion": None}, versions={}, error="the registry has no m@champion")
    assert render_status(listed(("m", entry), registry_error="MLflow did not answer"), NOW).splitlines() == [
        "THE REGISTRY CANNOT BE READ, serving goes on: MLflow did not answer",
        "",
        "m  live: none  champion → none",
        "  trouble: the registry has no m@champion",
        "  no version is loaded",
    ]
    assert render_status(listed(), NOW) == "no model is served yet"


def test_a_version_named_by_its_number_is_called_pinned() -> None:
    entry = ModelEntry(live="3", aliases={}, versions={"3": VersionEntry(state="ready", engines=(engine(1),))})
    assert "3        ready  pinned" in render_status(listed(("m", entry)), NOW)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-5, "now"), (0.4, "now"), (59.9, "59 s ago"), (60, "1 min ago"), (7300, "2 h ago"), (200_000, "2 d ago")],
)
def test_times_are_in_their_largest_unit(seconds: float, words: str) -> None:
    swap = Swap(time=NOW - seconds, reference="m@a", from_version="1", to_version="2", outcome="success", seconds=1.0)
    entry = ModelEntry(live="2", aliases={}, versions={}, swaps=(swap,))
    assert f" UTC  {words}  m@a  1 → 2  success  1.0 s" in render_status(listed(("m", entry)), NOW)


def test_only_the_latest_swaps_are_shown() -> None:
    swaps = tuple(
        Swap(time=NOW - n, reference="m@a", from_version="1", to_version=str(n), outcome="success", seconds=1.0)
        for n in range(20, 0, -1)
    )
    printed = render_status(listed(("m", ModelEntry(live="2", aliases={}, versions={}, swaps=swaps))), NOW)
    assert [line.split(" → ")[1].split()[0] for line in printed.splitlines()[-5:]] == ["1", "2", "3", "4", "5"]


def test_a_model_says_how_its_engines_run() -> None:
    names = ("model", "version", "root", "device", "dtype", "address", "report", "run")
    keeper = EngineProcess(EngineOrder(**dict.fromkeys(names, ""), threads=0))
    keeper.report = EngineReport(
        pid=1, state="ready", device="cpu", execution="packed graph", notes=("no graph: why",), split="2 × 1"
    )
    entry = ModelEntry(live="1", aliases={}, versions={"1": ManagedVersion("m", "1", None, engines=[keeper]).entry()})
    (engine,) = describe_model("m", entry)["versions"]["1"]["engines"]
    assert (engine["execution"], engine["notes"], engine["split"]) == ("packed graph", ["no graph: why"], "2 × 1")
