"""Damaged checkpoints: each is logged and answers as transformers does, or is refused in one line with file and remedy.

Every key of every JSON file of six checkpoints is deleted, emptied, retyped or renamed, and every file deleted, emptied
or truncated. `HEADWAITER_FUZZ_CASES` is the number of cases in total; a few run by default.
"""

import copy
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from registry.contract import Contract
from registry.heads import get_head
from registry.staging import stage
from serving.pyfunc import REFUSALS
from tests.alike import assert_alike
from tests.families import build

pytestmark = pytest.mark.sweep

GIVEN = os.environ.get("HEADWAITER_FUZZ_CASES")
CASES = int(GIVEN or 60)
CHECKPOINTS = {
    "text-classification": "bert",
    "text-generation": "llama",
    "text2text-generation": "t5",
    "feature-extraction": "roberta",
    "image-classification": "vit",
    "token-classification": "deberta",
}
"""The task and the family of each checkpoint."""
RETYPED: tuple[object, ...] = (None, True, 0, -1, 3, 0.5, "", "strange", [], ["strange"], {}, {"strange": 1})
MAX_ENTRIES = 12
"""Keys of one object that are changed; of a vocabulary the first and the last ones."""
REMEDY = re.compile("save|correct|restore|pass |set |log |install|fine-tune|choose|remove|check |use |mend", re.I)
"""A word by which a message says what to do."""
Way = tuple[str | int, ...]


def make_checkpoint(folder: Path, task: str) -> Path:
    build(folder, CHECKPOINTS[task], get_head(task).auto_class)
    if task == "feature-extraction":
        (folder / "1_Pooling").mkdir()
        write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ]
        write(folder / "modules.json", modules)
        write(folder / "config_sentence_transformers.json", {"prompts": {"query": "query: "}})
        write(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    if task == "text-generation":
        (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    return folder


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {task: make_checkpoint(root / task, task) for task in CHECKPOINTS}


def places(content: object, way: Way = ()) -> Iterator[Way]:
    """The way to every value of decoded JSON, of long collections to some."""
    entries: list[Any] = []
    if isinstance(content, dict):
        entries = list(content.items())
    elif isinstance(content, list):
        entries = list(enumerate(content))
    if len(entries) > MAX_ENTRIES:
        entries = entries[: MAX_ENTRIES // 2] + entries[-MAX_ENTRIES // 2 :]
    for key, value in entries:
        yield (*way, key)
        yield from places(value, (*way, key))


@cache
def targets(folder: Path) -> list[tuple[str, Way]]:
    """(file, way) of everything in the folder that can be changed; an empty way is the file itself."""
    found: list[tuple[str, Way]] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        found.append((name, ()))
        if path.suffix == ".json":
            found += [(name, way) for way in places(json.loads(path.read_text()))]
    return found


def spoil_file(path: Path, draw: Callable[[Any], Any]) -> str:
    how: str = draw(st.sampled_from(["delete", "empty", "truncate", "rename"]))
    if how == "delete":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncate":
        content = path.read_bytes()
        path.write_bytes(content[: draw(st.integers(0, len(content) - 1))])
    else:
        path.rename(path.with_name(f"{path.name}.old"))
    return how


def spoil_value(path: Path, way: Way, draw: Callable[[Any], Any]) -> str:
    content = json.loads(path.read_text())
    parent = content
    for key in way[:-1]:
        parent = parent[key]
    key = way[-1]
    how: str = draw(st.sampled_from(["delete", "retype", "empty", "rename"]))
    if how == "delete":
        del parent[key]
    elif how == "retype":
        parent[key] = copy.deepcopy(draw(st.sampled_from(RETYPED)))
        how = f"retype to {parent[key]!r}"
    elif how == "empty":
        parent[key] = type(parent[key])() if parent[key] is not None else ""
    elif isinstance(parent, dict):
        parent[f"{key}_strange"] = parent.pop(key)
    else:
        parent.insert(0, parent.pop(key))
    write(path, content)
    return how


@pytest.mark.parametrize("task", CHECKPOINTS)
def test_a_damaged_checkpoint_is_logged_right_or_refused_clearly(
    checkpoints: dict[str, Path], tmp_path: Path, task: str
) -> None:
    folder, artifact, problems = tmp_path / "damaged", tmp_path / "artifact", list[str]()

    @settings(
        max_examples=max(1, CASES // len(CHECKPOINTS)),
        deadline=None,
        database=None,
        derandomize=not GIVEN,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        for each in (folder, artifact):
            shutil.rmtree(each, ignore_errors=True)
        shutil.copytree(checkpoints[task], folder)
        name, way = data.draw(st.sampled_from(targets(checkpoints[task])))
        how = spoil_value(folder / name, way, data.draw) if way else spoil_file(folder / name, data.draw)
        problem = judge(folder, artifact, task)
        if problem is not None:
            problems.append(f"{how} {name} {'.'.join(map(str, way))}: {problem}")

    check()
    assert not problems, "\n".join(problems)


def judge(folder: Path, artifact: Path, task: str) -> str | None:
    """What is wrong, where the checkpoint is neither refused clearly nor logged right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            contract = stage(artifact, folder, None, task)
        except REFUSALS as refused:
            message = str(refused)
            is_clear = "\n" not in message and 20 < len(message) < 900 and REMEDY.search(message)
            return None if is_clear else f"unclear: {message!r}"
        except Exception as error:
            return f"not a refusal: {type(error).__name__}: {error}"
        assert contract.example is not None
        try:
            expected = json.loads(json.dumps(answer_with_transformers(folder, contract), default=float))
            assert_alike(contract.example.output, expected)
        except Exception as error:
            return f"logged, but answers otherwise than transformers: {error}"
    return None


def answer_with_transformers(folder: Path, contract: Contract) -> Any:
    """The answer to the contract's example by the folder's own files, one input at a time."""
    import torch
    import transformers

    assert contract.example is not None
    inputs, task = contract.example.inputs, contract.task
    model = getattr(transformers, contract.auto_class).from_pretrained(folder, dtype=torch.float32).eval()
    if task == "image-classification":
        processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        pipeline = transformers.pipeline(task, model=model, image_processor=processor)
        return [pipeline(read_image(image), top_k=None) for image in inputs]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if task == "text-classification":
        pipeline = transformers.pipeline(task, model=model, tokenizer=tokenizer)
        return [pipeline(text, top_k=None) for text in inputs]
    if task == "token-classification":
        pipeline = transformers.pipeline(task, model=model, tokenizer=tokenizer)
        return [pipeline(text, aggregation_strategy="simple") for text in inputs]
    with torch.inference_mode():
        if task == "feature-extraction":
            return [embed(model, tokenizer(text, return_tensors="pt"), contract) for text in inputs]
        prefix = contract.defaults.get("prefix", "")
        answers = []
        for text in inputs:
            ids = tokenizer(prefix + text, return_tensors="pt")
            mask = torch.ones_like(ids["input_ids"])
            written = model.generate(input_ids=ids["input_ids"], attention_mask=mask, **contract.example.parameters)
            new = written[0, 1 if contract.is_encoder_decoder else ids["input_ids"].shape[1] :]
            answers.append([{"generated_text": tokenizer.decode(new, skip_special_tokens=True)}])
        return answers


def embed(model: Any, ids: Any, contract: Contract) -> Any:
    states = model(**ids).last_hidden_state[0]
    found = {"mean": states.mean(0), "cls": states[0], "last": states[-1], "raw": states}[contract.defaults["pooling"]]
    if contract.defaults["normalize"]:
        found = found / found.norm(dim=-1, keepdim=True)
    return found.tolist()


def read_image(uri: str) -> Any:
    import base64
    import io

    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
