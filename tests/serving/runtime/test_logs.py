"""The log is one JSON object a line, and neither it nor a traceback shows a secret."""

import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from serving.runtime.logs import JsonFormatter, RedactedRecord

SECRET = "hidden-word"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> "tuple[logging.Logger, io.StringIO]":
    """A logger of any library, and what its handler writes."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    stream, logger = io.StringIO(), logging.Logger("a.library")
    logger.addHandler(logging.StreamHandler(stream))
    before = logging.getLogRecordFactory()
    monkeypatch.setattr(logging, "_logRecordFactory", before)
    logging.setLogRecordFactory(RedactedRecord)
    return logger, stream


@pytest.mark.parametrize(
    "formatter", [JsonFormatter(), logging.Formatter("%(message)s %(name)s")], ids=["ours", "plain"]
)
def test_no_record_shows_a_secret(logged: "tuple[logging.Logger, io.StringIO]", formatter: logging.Formatter) -> None:
    logger, stream = logged
    logger.handlers[0].setFormatter(formatter)
    logger.error("got %s of %d", f"http://user:{SECRET}@host", 3)
    logger.error("plain", extra={"fields": {"inputs": [{"text": f"it is {SECRET}"}], "rows": 3}})
    try:
        raise ValueError(f"no answer for {SECRET}")
    except ValueError:
        logger.exception("failed")
    shown = stream.getvalue()
    assert SECRET not in shown
    assert "got http://***@host of 3" in shown
    assert "ValueError: no answer for ***" in shown


def test_fields_keep_their_form(logged: "tuple[logging.Logger, io.StringIO]") -> None:
    logger, stream = logged
    logger.handlers[0].setFormatter(JsonFormatter())
    logger.error("slow", extra={"fields": {"inputs": [{"text": f"it is {SECRET}"}], "rows": 3, "seconds": 0.5}})
    line = json.loads(stream.getvalue())
    assert (line["message"], line["inputs"], line["rows"], line["seconds"]) == ("slow", [{"text": "it is ***"}], 3, 0.5)


@pytest.mark.parametrize(
    "ending",
    [
        "raise ValueError(text)",
        "import threading; t = threading.Thread(target=int, args=(text,)); t.start(); t.join()",
        "import logging; logging.getLogger('other').error(text)",
    ],
    ids=["process", "thread", "log"],
)
def test_no_traceback_shows_a_secret(ending: str) -> None:
    code = (
        "from serving.runtime.logs import set_up_logging\n"
        "import os; set_up_logging(); text = 'http://user:' + os.environ['A_TOKEN'] + '@host'\n" + ending
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={"A_TOKEN": SECRET}, check=False
    )
    assert "http://***@host" in done.stderr
    assert SECRET not in done.stdout + done.stderr
