"""A secret in any form in which software writes one is hidden, and nothing else is."""

import base64
import secrets
import time
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from registry.errors import PromotionRefused, RegistryUnavailable
from registry.redaction import HIDDEN, MAX_TEXT, redact
from registry.settings import RegistrySettings
from serving.errors import RemoteError

SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_characters="*"), min_size=4)
TOKENS = st.from_regex(r"[A-Za-z0-9_~+-]{8,40}", fullmatch=True)
"""Characters that stand in a URL or a header as they are."""
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "HEADWAITER_WEBHOOK_SECRET",
    "DB_PASSWORD",
)
WITHOUT_ENVIRONMENT = (
    "API request to http://user:{}@127.0.0.1:9/api failed",
    "https://{}@github.com/a/b",
    "(psycopg2.OperationalError) postgresql+psycopg2://mlflow:{}@db.internal:5432/mlflow refused",
    "{{'Authorization': 'Basic {}', 'Accept': '*/*'}}",
    "Authorization: Bearer {}",
    "authorization: AWS4-HMAC-SHA256 Credential={}/20261128/eu/s3, Signature={}\nnext",
    "[('Proxy-Authorization', 'Token {}')]",
    '{{"Cookie": "session={}; path=/"}}',
    "x-amz-security-token: {}",
    "the token was bad: Bearer {}",
    "GET /artifacts?token={}&x=1",
    "https://bucket.s3.amazonaws.com/m?X-Amz-Credential=a&X-Amz-Signature={}",
    "https://store.blob.core.windows.net/m?sv=2026&sig={}",
    "connect(host='db', user='me', password='{}')",
    '{{"aws_secret_access_key": "{}"}}',
    "AccountName=me;AccountKey={};EndpointSuffix=x",
    "MLFLOW_TRACKING_TOKEN={} is set",
    "client_secret={}",
    "Driver=x;Server=y;Pwd={};",
)


@pytest.mark.sweep
@pytest.mark.parametrize("text", WITHOUT_ENVIRONMENT)
@settings(max_examples=25)  # of each text
@given(secret=TOKENS)
def test_what_looks_like_a_secret_is_hidden(text: str, secret: str) -> None:
    assume(secret not in text)
    shown = redact(text.format(secret, secret), {})
    assert secret not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize("variable", VARIABLES)
@settings(max_examples=25)  # of each variable
@given(secret=SECRETS, before=st.sampled_from(["", "got ", "(", "/"]), after=st.sampled_from(["", ".", "@", " "]))
@example(secret="p@ss/w:rd?#", before="", after="@")
def test_a_secret_of_the_environment_is_hidden_wherever_it_stands(
    variable: str, secret: str, before: str, after: str
) -> None:
    assume(secret not in "an error got")
    for form in (secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1]):
        assert form not in redact(f"an error: {before}{form}{after}", {variable: secret})


@given(password=SECRETS, user=TOKENS)
@example(password="p@ss/w:rd?#", user="user")
@example(password="123/abc", user="user")
def test_a_password_in_an_address_of_the_environment_is_hidden(password: str, user: str) -> None:
    assume(password not in f"bad password for {user} cannot parse sent http postgresql")
    for address in (f"http://{user}:{password}@host:5000", f"postgresql://{user}:{quote(password, safe='')}@db/mlflow"):
        environ = {"MLFLOW_TRACKING_URI": address}
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        for text in (address, f"bad password {password} for {user}", f"cannot parse {address!r}: no", f"sent {basic}"):
            assert not [secret for secret in (password, basic) if secret in redact(text, environ)]


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=300 is out of range: this model takes 1 to 256",
        "pad_token='[PAD]', eos_token_id=2, unk_token: None, tokens=5",
        "http://127.0.0.1:3000/models/m@champion answered 404: no m@champion",
        "the files of m/1 could not be downloaded from models:/m-0123",
        "sqlite:////tmp/home/mlflow.db is locked; ask someone@example.com",
        "HEADWAITER_QUEUE_TOKENS='x' is not allowed: give a whole number",
        "basic classification of tokens: authorize it, set HEADWAITER_WEBHOOK_SECRET",
        "vocab_size=10, key padding.weight has shape (1, 2), signature=None",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    environ = {"TOKENIZERS_PARALLELISM": "false", "HEADWAITER_QUEUE_TOKENS": "300", "PWD": "/tmp/home", "LANG": "C"}
    assert redact(text, environ) == text


@given(text=st.text())
def test_redacting_again_changes_nothing(text: str) -> None:
    once = redact(text, {"A_TOKEN": "something-secret"})
    assert redact(once, {"A_TOKEN": "something-secret"}) == once


def test_errors_and_settings_have_no_secret_in_their_text() -> None:
    text = "MLflow did not answer at http://user:hidden-word@host"
    for error in (RegistryUnavailable(text), RemoteError(text, 500), PromotionRefused(text, [text])):
        assert "hidden-word" not in f"{error} {error.args} {getattr(error, 'reasons', '')}"
        assert str(error) == "MLflow did not answer at http://***@host"
    environ = {"MLFLOW_TRACKING_URI": "http://user:hidden-word@host", "HEADWAITER_HOME": "/tmp"}
    settings = RegistrySettings.from_environment(environ)
    assert "hidden-word" in settings.tracking_uri
    assert "hidden-word" not in repr(settings)


def test_a_key_of_this_server_is_hidden_wherever_it_stands() -> None:
    from serving.runtime.key_file import KEY_BYTES, PREFIX

    for _ in range(50):
        token = PREFIX + secrets.token_urlsafe(KEY_BYTES)
        for text in (token, f"curl -H {token}.", f"({token})", f"said {token!r} to us", f"{token}\nnext"):
            assert token not in redact(text, {})
    assert redact("hw_monitor and hw_" + "x" * 60, {}) == "hw_monitor and hw_" + "x" * 60


@pytest.mark.parametrize("part", ["x-", "a.", "://a:", "http://", "a://b:", '"token', "&token", "bearer ", "x-token:"])
def test_no_text_takes_long_to_look_through(part: str) -> None:
    """`re` holds the GIL: 12 KB of `x-` held up every thread for five seconds. It is counted in its own steps."""
    seconds = []
    for count in (2000, 16_000):
        text = part * (count // len(part))
        began = time.thread_time()
        redact(text, {})
        seconds.append(time.thread_time() - began)
    assert seconds[1] < 30 * max(seconds[0], 0.001), "of eight times the text"


def test_a_long_text_loses_its_middle_and_no_secret_shows_at_the_cut() -> None:
    secret = "correct-horse-battery"
    text = f"begin {'a ' * 16_380}{secret * 40}{' b' * 40_000} end"
    shown = redact(text, {"A_TOKEN": secret})
    assert shown.startswith("begin a a")
    assert shown.endswith("b end")
    assert " … " in shown
    assert len(shown) <= MAX_TEXT
    assert "correct" not in shown
