import pytest

from registry.references import Reference
from registry.settings import InvalidSetting


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("intents", Reference("intents", alias="champion")),
        ("intents@canary", Reference("intents", alias="canary")),
        ("intents/3", Reference("intents", version="3")),
        ("a.b-c_d", Reference("a.b-c_d", alias="champion")),
    ],
)
def test_a_reference_is_read(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert Reference.parse(str(expected)) == expected


ALIASES = ("a@b c", "a@b@c", "a@b.c", "a@b!", "a@" + "b" * 256)


@pytest.mark.parametrize(
    "text", ["", "@x", "a@", "a/", "a/x", "a/3@b", "a b", "../a", "a/-1", "ä", "a" * 129, "a/٣", *ALIASES]
)
def test_anything_else_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"NAME@ALIAS|is not allowed"):
        Reference.parse(text)
