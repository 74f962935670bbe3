"""Engines are forked from a template: real processes, a real artifact."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from registry.artifact import read_contract
from registry.references import Reference, ResolvedVersion
from registry.settings import RegistrySettings
from serving.engine import template as template_module
from serving.manager import engine_process, prestart, processes
from serving.manager.engine_process import EngineProcess
from serving.manager.last_live import LastLive
from serving.manager.launch import fork
from serving.manager.memory_reading import MemoryReader, highest_bytes, inherited_bytes
from serving.manager.prestart import TemplateKeeper, find_template, find_wanted, start_template
from serving.manager.processes import Forked, Process
from serving.runtime.run_folder import ENGINES, RunFolder
from serving.settings import ServingSettings
from serving.wire.engine_orders import (
    TEMPLATE_SOCKET,
    WANTED_FILE,
    EngineOrder,
    ForkReply,
    WantedVersions,
    order_path,
)
from serving.wire.heartbeat import heartbeat_path, read_pulse
from tests.e2e.server import wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = [
    pytest.mark.server,
    pytest.mark.surroundings,
    pytest.mark.skipif(os.name != "posix", reason="there is no fork"),
]

ARTIFACT = Path(__file__).parents[2] / "fixtures" / "artifact-of-format-1"


@contextmanager
def template_in(run: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A template of a server that is this process; killed if it still runs afterwards."""
    RunFolder.make(run)
    with start_template(run) as template:
        try:
            yield template
        finally:
            template.kill()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run folder of a server that is this process, with a template."""
    run = tmp_path_factory.mktemp("run") / "1"
    with template_in(run) as template:
        yield run
        shutil.rmtree(run)
        assert template.wait(WAIT_SECONDS) == 0, "it ends with its folder"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The template is waited for, however late it forks an engine and tells of an end."""
    for module, name in (
        (processes, "FORK_SECONDS"),
        (processes, "TELL_SECONDS"),
        (engine_process, "REAP_SECONDS"),
        (engine_process, "KILL_SECONDS"),
    ):
        monkeypatch.setattr(module, name, WAIT_SECONDS)


def make_order(run: Path, number: int, root: Path = ARTIFACT) -> EngineOrder:
    report = f"{run}/{ENGINES}/{number:08}-0000001.json"
    return EngineOrder(
        model="m",
        version="1",
        root=str(root),
        device="cpu",
        dtype="auto",
        address=f"ipc://{report.removesuffix('.json')}.sock",
        report=report,
        threads=1,
        run=str(run),
    )


def end(engine: EngineProcess) -> None:
    """It has ended on return."""
    engine.kill()
    wait_until(lambda: not engine.is_running(), "it has ended")


@pytest.fixture
def engine(run: Path) -> Iterator[EngineProcess]:
    """One that answers."""
    engine = EngineProcess(make_order(run, 1))
    engine.start()
    wait_until(lambda: engine.poll(time.monotonic()) == "ready", "it answers")
    yield engine
    end(engine)


def stop(process: psutil.Process) -> None:
    """It stands still on return."""
    process.suspend()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "it stands still")


def process_of(engine: EngineProcess) -> Process:
    assert engine._process is not None
    return engine._process


def test_an_engine_is_forked_from_the_template_and_stands_for_itself(run: Path, engine: EngineProcess) -> None:
    template = find_template(run)
    assert template is not None
    found = psutil.Process(engine.pid)
    assert found.ppid() == template.pid
    assert os.getsid(engine.pid) == engine.pid
    assert found.cmdline()[1:] == ["-P", "-m", "serving.engine", order_path(engine.order.report)]
    assert psutil.Process(template.pid).num_threads() == 1
    status = dict(line.split(":\t") for line in Path(f"/proc/{engine.pid}/status").read_text().splitlines())
    assert int(status["SigBlk"], 16) == 0
    assert not int(status["SigCgt"], 16) & 1 << (signal.SIGCHLD - 1), "the template's handler is not its own"
    assert str(Path(f"/proc/{engine.pid}/fd/0").readlink()) == os.devnull


def test_an_engine_writes_where_its_manager_does(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msgspec.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
    engine = EngineProcess(make_order(run, 7))
    engine.start()
    wait_until(lambda: engine.poll(time.monotonic()) == "ready", "it answers")
    assert psutil.Process(engine.pid).cwd() == str(run.parent)
    assert not (tmp_path / "sprung").exists()
    for number in (1, 2):
        assert Path(f"/proc/{engine.pid}/fd/{number}").stat() == Path(f"/proc/self/fd/{number}").stat()
    end(engine)
    broken = EngineProcess(make_order(run, 8, tmp_path))
    broken.start()
    wait_until(lambda: broken.poll(time.monotonic()) == "failed", "it fails")
    assert "headwaiter engine m/1" in capfd.readouterr().err


def test_there_is_one_template_at_a_socket(run: Path) -> None:
    with pytest.raises(FileExistsError):
        start_template(run)


def test_what_an_engine_shares_with_the_template_is_not_its_own_memory(engine: EngineProcess) -> None:
    process = psutil.Process(engine.pid)
    stop(process)  # so that all figures are of one moment
    found = process.memory_full_info()
    own = engine.measure()
    assert own < 0.6 * (found.rss - found.shared)
    assert own <= found.uss
    assert own < engine.memory_bytes() < found.rss


def test_what_ended_a_forked_engine_is_told(engine: EngineProcess) -> None:
    killed = psutil.Process(engine.pid)
    killed.send_signal(signal.SIGSEGV)
    wait_until(lambda: engine.poll(time.monotonic()) == "lost", "its end is told")
    assert engine.report.error == "the engine was ended by signal 11"
    assert not killed.is_running(), "it was reaped"
    wait_until(lambda: engine.poll(time.monotonic()) == "restarted", "it is started again")
    wait_until(lambda: engine.poll(time.monotonic()) == "ready", "it answers again")
    assert isinstance(process_of(engine), Forked)
    engine.stop()
    wait_until(lambda: not engine.is_running(), "it leaves")
    assert process_of(engine).returncode == 0


def test_an_engine_that_stands_still_is_replaced(run: Path) -> None:
    engine = EngineProcess(msgspec.structs.replace(make_order(run, 9), hang_seconds=1.0))
    engine.start()
    wait_until(lambda: engine.poll(time.monotonic()) == "ready", "it answers")
    stopped = psutil.Process(engine.pid)
    beats = heartbeat_path(engine.order.address, stopped.pid)
    before = read_pulse(beats)
    assert before is not None
    wait_until(lambda: read_pulse(beats) != before, "its idle loop turns")
    assert engine.poll(time.monotonic()) is None
    stopped.suspend()
    wait_until(lambda: engine.poll(time.monotonic()) == "lost", "it is noticed")
    assert "the engine hung: no sign of it for" in engine.report.error
    assert not stopped.is_running()
    wait_until(lambda: engine.poll(time.monotonic()) == "restarted", "it is started again")
    wait_until(lambda: engine.poll(time.monotonic()) == "ready", "it answers again")
    assert engine.pid != stopped.pid
    assert not beats.exists()
    end(engine)


def test_an_engine_that_stands_still_while_it_loads_again_is_replaced(run: Path) -> None:
    engine = EngineProcess(msgspec.structs.replace(make_order(run, 10), hang_seconds=1.0))
    engine.start()
    wait_until(lambda: engine.poll(time.monotonic()) == "ready", "it answers")
    psutil.Process(engine.pid).kill()
    wait_until(lambda: engine.poll(time.monotonic()) == "restarted", "it is started again")
    wait_until(lambda: engine.pid, "it is forked")
    psutil.Process(engine.pid).suspend()
    wait_until(lambda: engine.poll(time.monotonic()) == "lost", "it is noticed")
    assert "the engine hung" in engine.report.error
    end(engine)


def test_an_engine_that_cannot_load_says_why_and_its_status_is_told(run: Path, tmp_path: Path) -> None:
    engine = EngineProcess(make_order(run, 2, tmp_path))
    engine.start()
    wait_until(lambda: engine.poll(time.monotonic()) == "failed", "it fails")
    assert "MLmodel" in engine.report.error
    end(engine)


def test_the_id_of_an_engine_that_has_ended_before_it_is_told_is_known() -> None:
    """By it the manager finds the report, which says why."""
    own, template = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with template:
        for reply in (ForkReply(pid=gone.pid), ForkReply(pid=gone.pid, status=1)):
            template.send(msgspec.json.encode(reply))
        process = Forked(own, lambda: pytest.fail("it was forked"))
        assert (process.pid, process.poll()) == (gone.pid, 1)


def test_an_engine_whose_order_is_gone_leaves(run: Path) -> None:
    process = fork(f"{run}/{ENGINES}/00000003-0000001.order")
    assert process is not None
    assert wait_until(lambda: process.poll() is not None, "it leaves")
    assert process.returncode == 0


def test_another_manager_adopts_a_forked_engine(engine: EngineProcess) -> None:
    successor = EngineProcess.adopt(engine.order, engine.report)
    assert successor.pid == engine.pid
    assert successor.is_running()


def test_variables_are_the_managers_but_those_that_libraries_have_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    engine = EngineProcess(make_order(run, 4))  # one that does not fail before it is looked at
    engine.start()
    wait_until(lambda: engine.pid, "it is spawned instead")
    assert psutil.Process(engine.pid).ppid() == os.getpid()
    spawned = psutil.Process(engine.pid)
    wait_until(lambda: spawned.environ().get("OMP_NUM_THREADS") == "3", "it has it once its program is loaded")
    end(engine)


def test_an_engine_whose_order_would_not_show_in_its_command_line_is_spawned(run: Path) -> None:
    folder = run.with_name("longer") / ENGINES
    folder.mkdir(parents=True)
    (folder / TEMPLATE_SOCKET).symlink_to(run / ENGINES / TEMPLATE_SOCKET)
    process = fork(str(folder / "00000009-0000001.order"))
    assert process is not None
    wait_until(lambda: process.pid, "it is spawned instead")
    assert psutil.Process(process.pid).ppid() == os.getpid()
    process.kill()
    process.wait(WAIT_SECONDS)


def test_a_template_whose_folder_is_gone_before_it_has_begun_ends(tmp_path: Path) -> None:
    run = tmp_path / "1"
    with template_in(run) as template:
        shutil.rmtree(run)
        assert template.wait(WAIT_SECONDS) == 0


@pytest.mark.long
def test_engines_survive_the_template_and_are_spawned_until_there_is_another(tmp_path: Path) -> None:
    RunFolder.make(tmp_path)
    keeper = TemplateKeeper(tmp_path)
    engines = [EngineProcess(make_order(tmp_path, number)) for number in (1, 2, 3)]
    try:
        keeper.keep(0.0)
        template = psutil.Process(keeper.pid)
        engines[0].start()
        wait_until(lambda: engines[0].pid, "it is forked")
        stop(template)
        engines[1].start()
        assert engines[1].pid == 0
        template.kill()
        template.wait(WAIT_SECONDS)
        wait_until(lambda: engines[1].pid, "what was not forked yet is spawned")
        assert psutil.Process(engines[1].pid).ppid() == os.getpid()
        assert engines[0].is_running()
        keeper.keep(1.0)
        assert keeper.pid not in (0, template.pid)
        engines[2].start()
        wait_until(lambda: engines[2].pid, "it is forked again")
        assert psutil.Process(engines[2].pid).ppid() == keeper.pid
        psutil.Process(engines[0].pid).kill()
        wait_until(lambda: not engines[0].is_running(), "its end is noticed without a template")
    finally:
        for engine in engines:
            end(engine)
        keeper.close()
    assert find_template(tmp_path) is None


def test_a_template_that_stands_still_while_an_engine_is_awaited_is_replaced(tmp_path: Path) -> None:
    RunFolder.make(tmp_path)
    keeper, engine = TemplateKeeper(tmp_path, 5.0), EngineProcess(make_order(tmp_path, 1))
    try:
        keeper.keep(0.0)
        template = psutil.Process(keeper.pid)
        stop(template)
        for now in range(100):
            keeper.keep(float(now))
        assert template.is_running(), "nobody waits for it"
        engine.start()
        assert engine.pid == 0
        for now in range(100, 110):
            keeper.keep(float(now), is_awaited=True)
        wait_until(lambda: engine.pid, "the engine is spawned")
        assert psutil.Process(engine.pid).ppid() == os.getpid()
        wait_until(lambda: keeper.keep(111.0) or keeper.pid not in (0, template.pid), "there is another template")
    finally:
        end(engine)
        keeper.close()


@pytest.mark.long
def test_no_engine_is_forked_while_threads_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with template_in(tmp_path / "run") as template:
        engine = EngineProcess(make_order(tmp_path / "run", 1, tmp_path))
        engine.start()
        assert template.wait(WAIT_SECONDS) == 1
    wait_until(lambda: engine.pid, "it is spawned instead")
    assert psutil.Process(engine.pid).ppid() == os.getpid()
    end(engine)


def test_a_thread_that_leaves_slowly_ends_no_template(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, times = iter([2, 1]), iter([100.0, 105.0])
    monkeypatch.setattr(template_module, "count_threads", lambda: next(counts))
    monkeypatch.setattr(template_module, "time", SimpleNamespace(monotonic=times.__next__, sleep=lambda _: None))
    template_module.check_forkable()
    assert next(counts, None) is None


def test_an_engine_that_is_wanted_no_more_is_not_forked(run: Path) -> None:
    template = find_template(run)
    assert template is not None
    stop(psutil.Process(template.pid))
    engine = EngineProcess(make_order(run, 5))
    engine.start()
    engine.kill()
    template.send_signal(signal.SIGCONT)
    assert not engine.is_running()
    other = fork(f"{run}/{ENGINES}/00000006-0000001.order")
    assert other is not None
    wait_until(lambda: other.poll() == 0, "requests are answered in turn")
    assert not Path(engine.order.report).exists()


def test_a_template_that_ends_again_and_again_is_started_later_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[float] = []
    now = 0.0

    def refuse(*_: object) -> None:
        starts.append(now)
        raise OSError("no process to be had")

    monkeypatch.setattr(prestart, "start_template", refuse)
    keeper = TemplateKeeper(tmp_path)
    for now in range(17):
        keeper.keep(now)
    assert starts == [0, 1, 3, 7, 15]


def test_the_template_of_another_server_is_not_taken(tmp_path: Path, run: Path) -> None:
    (tmp_path / ENGINES).mkdir()
    shutil.copy(run / ENGINES / prestart.REPORT, tmp_path / ENGINES)
    assert find_template(tmp_path) is None


def test_memory_of_a_process_that_is_gone_or_shares_none_is_read(tmp_path: Path) -> None:
    assert inherited_bytes(tmp_path / "none") == 0
    assert MemoryReader().read(2**22 + 1).own == MemoryReader().read(0).own == 0
    assert highest_bytes(tmp_path / "none") == 0


def test_seeds_are_drawn_anew() -> None:
    import numpy
    import torch

    seeds, draws = set(), set()
    for _ in range(2):
        numpy.random.seed(1)
        torch.manual_seed(1)
        template_module.reseed()
        seeds.add(torch.initial_seed())
        draws.add(numpy.random.random())
    assert len(seeds) == len(draws) == 2


def test_when_memory_runs_out_the_template_goes_before_engines_that_serve(run: Path, engine: EngineProcess) -> None:
    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    template = find_template(run)
    assert template is not None
    assert score(os.getpid()) < score(engine.report.pid) < score(template.pid)


IMPORT = """
import sys
from pathlib import Path
from serving.engine.early_imports import import_wanted
import_wanted(Path(sys.argv[1]))
print(*(name in sys.modules for name in ("torch", "transformers", "transformers.models.bert.modeling_bert")))
rules = sys.modules.get("transformers.conversion_mapping")
print(rules is not None and rules._checkpoint_conversion_mapping_cache is not None)
"""


@pytest.mark.long
@pytest.mark.parametrize(("is_kept", "expected"), [(True, "True False False\nFalse"), (False, "True True True\nTrue")])
def test_transformers_and_families_are_imported_ahead_where_a_version_needs_them(
    tmp_path: Path, is_kept: bool, expected: str
) -> None:
    root = shutil.copytree(ARTIFACT, tmp_path / "artifact")
    if is_kept:
        (root / "graphs").mkdir()
        (root / "graphs" / "key.json").touch()
    (tmp_path / WANTED_FILE).write_bytes(msgspec.json.encode(WantedVersions((str(root),))))
    command = [sys.executable, "-c", IMPORT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=True)
    assert done.stdout.strip() == expected


def test_what_was_last_live_is_wanted(tmp_path: Path) -> None:
    settings = ServingSettings(RegistrySettings(tmp_path, ""), (), tmp_path)
    last = LastLive(settings.registry)
    for name, digest in (("one", "1" * 64), ("two", "2" * 64), ("three", None)):
        version = ResolvedVersion(name, "1", "file:///nowhere", digest)
        last.remember(Reference.parse(name), version)
    cache = settings.registry.cache
    assert sorted(find_wanted(settings)) == [cache / ("1" * 64), cache / ("2" * 64)]
    some = msgspec.structs.replace(settings, models=(Reference.parse("two"), Reference.parse("four")))
    assert find_wanted(some) == [cache / ("2" * 64)]


def test_an_engine_keeps_its_graph_and_the_next_one_is_ready_without_the_weights(run: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    root = shutil.copytree(ARTIFACT, cache / read_contract(ARTIFACT).digest)
    order = msgspec.structs.replace(make_order(run, 21, root), cache=str(cache))
    first = EngineProcess(order)
    first.start()
    wait_until(lambda: first.poll(time.monotonic()) == "ready", "it answers")
    wait_until(lambda: any(root.glob("graphs/*.json")), "it has kept its graph")
    end(first)
    (root / "model" / "model.safetensors").unlink()  # which nobody needs who has the graph
    again = EngineProcess(msgspec.structs.replace(order, report=make_order(run, 22).report))
    again.start()
    wait_until(lambda: again.poll(time.monotonic()) == "ready", "it answers")
    assert msgspec.structs.replace(again.report, pid=first.report.pid) == first.report
    end(again)
