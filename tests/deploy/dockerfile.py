"""The Dockerfile as data: what its last stage says."""

import json
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"


def instructions(path: Path = DOCKERFILE) -> list[tuple[str, str]]:
    """(instruction, its arguments) of the last stage, in order; continued lines are one."""
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]
    last = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[last:]


def arguments(instruction: str) -> str:
    """The arguments of the only instruction of this kind."""
    (found,) = (rest for name, rest in instructions() if name == instruction)
    return found


def command(instruction: str) -> list[str]:
    """The arguments in their form as JSON, behind any options."""
    found: list[str] = json.loads(arguments(instruction)[arguments(instruction).index("[") :])
    return found


def environment() -> dict[str, str]:
    """The variables, but for PATH."""
    pairs = dict(word.split("=", 1) for word in shlex.split(arguments("ENV")))
    return {name: value for name, value in pairs.items() if name != "PATH"}
