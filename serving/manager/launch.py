"""Starting an engine's process: forked by the template where there is one, else spawned."""

import socket
import subprocess
from pathlib import Path

import msgspec

from registry.child_process import child_environ, module_command
from serving.manager.processes import Forked, Process
from serving.runtime.limits import allowed_cores, own_groups, usable_cores
from serving.wire.engine_orders import TEMPLATE_SOCKET, ForkRequest

KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""Settings of glibc: memory that a forward pass frees is kept for the next one, up to this size. Otherwise up to a
sixth of the time goes into page faults of large tensors."""


def engine_environ() -> dict[str, str]:
    """The environment of an engine: what it may have of this process', and defaults for variables that are not set."""
    environ = {
        **KEPT_MEMORY,
        **child_environ(),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        # Asked through CUDA itself, whether there is a GPU leaves a state that a forked process cannot use.
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    }
    cores, _ = usable_cores(own_groups())
    if cores < allowed_cores():  # a quota: unlike the affinity, thread pools do not see it
        environ.setdefault("OMP_NUM_THREADS", str(cores))
    # Its idle threads must not spin on the fronts' cores, but from one kernel to the next, as sleeping and waking cost
    # more: see bench/NOTES.md, Passes side by side.
    environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environ.setdefault("GOMP_SPINCOUNT", "10000")
    environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's: it starts its threads as soon as it is imported
    return environ


def launch(path: str) -> Process:
    """A process for the order in the file `path`, which is written already. Raises OSError where there is none."""
    return fork(path) or spawn(path)


def spawn(path: str) -> "subprocess.Popen[bytes]":
    """A process for the order in the file `path` that imports what it needs."""
    command = module_command("serving.engine", path)
    return subprocess.Popen(command, env=engine_environ(), stdin=subprocess.DEVNULL, cwd=working_folder(path))


def fork(path: str) -> Forked | None:
    """A process for the order in the file `path`, asked for at the template; None where there is none. Blocks not."""
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.setblocking(False)
    try:
        link.connect(str(Path(path).with_name(TEMPLATE_SOCKET)))
        request = ForkRequest(order=path, folder=str(working_folder(path)), environ=engine_environ())
        socket.send_fds(link, [msgspec.json.encode(request)], [1, 2])
    except OSError:
        link.close()
        return None
    return Forked(link, lambda: spawn(path))


def working_folder(path: str) -> Path:
    """Where the engine of the order in the file `path` works: the folder of run folders, which outlives its server."""
    return Path(path).parents[2]
