"""How this software starts Python processes of its own: what they import, and what of the environment they get.

They import installed modules and this software's, never what lies in a working directory, such as a `msgspec.py`.
They get the variables that are known to matter to them, so a process that opens an artifact has no credentials.
"""

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from registry.redaction import is_secret_variable

# fmt: off
NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "XDG_CACHE_HOME",
    "HEADWAITER_HOME", "LOKY_MAX_CPU_COUNT", "MLFLOW_DISABLE_TELEMETRY",
})
"""Variables that a process inherits."""
PREFIXES = (
    "LC_", "PYTHON", "LD_", "MALLOC_", "GLIBC_", "COVERAGE_", "NPY_",
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "DNNL_", "ATEN_",
    "TORCH", "PYTORCH_", "TRITON_", "KINETO_", "TRANSFORMERS_", "TOKENIZERS_", "HF_HUB_",
    "CUDA_", "CUBLAS_", "CUDNN_", "NCCL_", "NVIDIA_", "HIP_", "HSA_", "ROCR_",
)
# fmt: on
"""Prefixes of other inherited variables: those of Python, native libraries, torch and transformers."""


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module, without the working directory among the places of modules."""
    return [sys.executable, "-P", "-m", module, *arguments]


def child_environ(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of `environ` that a process inherits, and where it finds this software."""
    kept = {
        name: value
        for name, value in environ.items()
        if (name in NAMES or name.startswith(PREFIXES)) and not is_secret_variable(name)
    }
    return kept | {"PYTHONPATH": python_path(environ), "PYTHONSAFEPATH": "1"}


def python_path(environ: Mapping[str, str] = os.environ) -> str:
    """`PYTHONPATH` with this software's source, without relative entries: those name other places in each process."""
    source = str(Path(__file__).resolve().parents[1])
    given = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if Path(entry).is_absolute()]
    own = [] if source in given or source == sysconfig.get_paths()["purelib"] else [source]
    return os.pathsep.join([*own, *given])
