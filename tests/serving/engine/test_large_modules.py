"""An engine's process imports transformers without what it does not need, and a family that needs it finds it."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.engine.large_modules import NOT_OF_AN_ENGINE

ROOT = Path(__file__).resolve().parents[3]
CODE = f"""
import sys
from serving.engine.large_modules import import_transformers
import_transformers()
import transformers.models.bert.modeling_bert
print([name for name in {NOT_OF_AN_ENGINE!r} if name in sys.modules])
from transformers.models.fnet import modeling_fnet
print(modeling_fnet.linalg.__name__)
"""


@pytest.mark.server
def test_transformers_is_imported_without_scipy_which_a_family_gets_that_needs_it() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines() == ["[]", "scipy.linalg"]
