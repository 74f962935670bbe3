"""`python -m bench.gpu_card`: the GPU, its driver and clocks, the libraries, and what is missing for `gpu_check.sh`."""

import importlib.util
import platform
import shutil
import subprocess
import sys

NEEDED = (
    *("torch", "transformers", "tokenizers", "safetensors", "numpy", "msgspec", "zmq", "psutil", "yaml", "packaging"),
    *("jinja2", "PIL", "pytest", "hypothesis", "httpx", "click", "rich", "filelock"),
)
"""The modules of other projects that the tests on a GPU and `bench.gpu` import."""
FIELDS = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,temperature.gpu,power.draw,power.limit"


def main() -> int:
    """Print; 1 where something is missing."""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv"]
        print(subprocess.run(command, capture_output=True, text=True, check=False).stdout, end="")
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"missing: {', '.join(missing)}; `bench/gpu_check.sh OUT --wheels FOLDER` installs them offline")
        return 1
    import torch
    import transformers

    versions = f"torch {torch.__version__} (CUDA {torch.version.cuda}), transformers {transformers.__version__}"
    print(f"Python {platform.python_version()}, {versions}; GPUs: {torch.cuda.device_count()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
