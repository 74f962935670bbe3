import subprocess
import sys

import pytest

CODE = """
import serving.engine.loading, torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from serving.engine.optimizations.attention import IMPLEMENTATION
from serving.engine.process_state import prepare_process

def state():
    profiles = torch._C._jit_set_profiling_executor(True)
    torch._C._jit_set_profiling_executor(profiles)
    return [IMPLEMENTATION in ALL_ATTENTION_FUNCTIONS.valid_keys(), profiles]

before = state()
prepare_process()
print(before, state())
"""


@pytest.mark.server
def test_importing_the_engine_leaves_the_process_as_it_was() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, True] [True, False]"
