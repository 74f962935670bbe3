import math
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import RolloutError
from registry.rollout.guards import MAX_GUARDS, Guard, parse_guards
from registry.rollout.plan import GUARDS, STEPS, Plan, Step, make_plan, parse_duration, parse_steps


def plan(**changes: object) -> Plan:
    given = {"alias": "champion", "stable": "1", "candidate": "2", "who": "ada", "why": "better", "now": 0.0}
    return make_plan(**(given | changes))  # type: ignore[arg-type]  # the cases give wrong values, too


@pytest.mark.parametrize(
    ("text", "step"),
    [("shadow:200", Step(shadows=200)), ("1%", Step(0.01)), ("0.5%", Step(0.005)), ("100%", Step(1.0))],
)
def test_a_step_is_read_and_written(text: str, step: Step) -> None:
    assert Step.parse(text) == step
    assert str(step) == text


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("1%,150%", "'150%' is no share: give more than 0% and at most 100%"),
        ("0%,100%", "'0%' is no share"),
        ("shadow:0,1%,100%", "compares 0 requests: give 1 to"),
        ("half,100%", "'half' cannot be read: write shadow:COUNT"),
        ("10%,1%,100%", "step 1% comes after 10%: the shares must grow"),
        ("10%,10%,100%", "the shares must grow"),
        ("1%,shadow:9,100%", "step shadow:9 comes after 1%"),
        ("1%,50%", "the last step is 50%: end with 100%"),
        ("shadow:5", "the last step is shadow:5"),
        ("shadow:5,100%", "no step lets both versions answer clients"),
        ("", "cannot be read"),
        (",".join(f"{share}%" for share in range(1, 22)), "a rollout has 1 to 20 steps, these are 21"),
    ],
)
def test_steps_that_make_no_rollout_are_refused(steps: str, message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        parse_steps(steps.split(","))


@pytest.mark.parametrize(
    ("text", "guard", "plain"),
    [
        ("errors < stable + 1%", Guard("errors", 0.01), "errors < stable + 1%"),
        ("Errors<stable+0.5 %", Guard("errors", 0.005), "errors < stable + 0.5%"),
        ("refusals < stable + 2%", Guard("refusals", 0.02), "refusals < stable + 2%"),
        ("p99 < 1.2 × stable", Guard("p99", 1.2), "p99 < 1.2 × stable"),
        ("p99 < 1.2 x stable", Guard("p99", 1.2), "p99 < 1.2 × stable"),
        ("p50<1.2*stable", Guard("p50", 1.2), "p50 < 1.2 × stable"),
        ("p50 < 2xstable", Guard("p50", 2.0), "p50 < 2 × stable"),
        ("agreement > 97%", Guard("agreement", 0.97), "agreement > 97%"),
        ("confidence shift < 0.05", Guard("confidence shift", 0.05), "confidence shift < 0.05"),
        ("label shift < 0.2", Guard("label shift", 0.2), "label shift < 0.2"),
        ("compute<2x stable", Guard("compute", 2.0), "compute < 2 × stable"),
        ("p90 < 1.5x stable", Guard("p90", 1.5), "p90 < 1.5 × stable"),
        ('promql( a{b="X"} )<0.5', Guard("promql", 0.5, 'a{b="X"}'), 'promql(a{b="X"}) < 0.5'),
        (
            "promql(rate(a[5m]) > 3) > -2",
            Guard("promql", -2.0, "rate(a[5m]) > 3", True),
            "promql(rate(a[5m]) > 3) > -2.0",
        ),
    ],
)
def test_a_guard_is_read_and_written(text: str, guard: Guard, plain: str) -> None:
    assert Guard.parse(text) == guard
    assert str(guard) == plain
    assert Guard.parse(plain) == guard


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency < 1", "begins with no metric: choose one of errors, refusals, p50"),
        ("", "begins with no metric"),
        ("errors > stable + 1%", "cannot be read: write it as 'errors < stable"),
        ("errors < 1%", "cannot be read"),
        ("p99 < stable", "cannot be read: write it as 'p99 < 1.2 × stable'"),
        ("p99 < 0.9 × stable", "allows 0.9: its number is between 1 and 100"),
        ("agreement > 100%", "allows 100"),
        ("errors < stable + 0%", "allows 0"),
        ("label shift < 0.2%", "cannot be read"),
        ("promql(up) = 1", r"cannot be read: write it as 'promql\(QUERY\) < 0.5'"),
        ("promql() < 1", "cannot be read"),
        ("promql( ) < 1", "cannot be read"),
        ("promql(up) < 1e999", "allows inf: its number is finite"),
        pytest.param(f"promql(up) < {'9' * 400}", "allows inf: its number is finite", id="no float"),
        pytest.param(f"errors < stable + 0.{'0' * 330}1%", "allows 0", id="0 as a float"),
        pytest.param(f"errors < stable + 0.{'0' * 322}1%", "its number is between 0 and 100", id="0 as a share"),
        ("promql(up) < 1%", "cannot be read"),
    ],
)
def test_a_guard_that_cannot_be_met_or_read_shows_its_form(text: str, message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        Guard.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "errors < stable + 0.00001%",
        "agreement > 99.99999999%",
        "p99 < 1.0000001 × stable",
        "label shift < 0.00000001",
        "promql(x) < 100000000000000000",
        "promql(x) < 1e-7",
        "promql(x) < -0.00000001",
    ],
)
def test_a_plan_can_be_read_back(text: str) -> None:
    assert plan(guards=(text,)).parsed_guards() == (Guard.parse(text),)


NUMBERS = st.decimals(-(10**20), 10**20, allow_nan=False, places=12).map(lambda number: f"{number:f}")
POSITIVE = st.decimals("1e-9", 100, places=9).map(lambda number: f"{number:f}") | st.floats(
    0.0, 100.0, exclude_min=True, exclude_max=True
).map(lambda number: f"{Decimal(number):f}")
FORMS = (
    "errors < stable + {}%",
    "agreement > {}%",
    "p99 < {} × stable",
    "compute < {} × stable",
    "confidence shift < {}",
    "label shift < {}",
)


def assert_is_read_back(text: str) -> None:
    try:
        guard = Guard.parse(text)
    except RolloutError:
        return  # beyond the bounds of the metric
    assert math.isfinite(guard.limit)
    assert Guard.parse(str(guard)) == guard


@given(st.sampled_from(FORMS), POSITIVE)
def test_a_guard_that_is_written_is_the_one_that_was_read(form: str, number: str) -> None:
    assert_is_read_back(form.format(number))


@given(st.text(max_size=20), st.sampled_from("<>"), NUMBERS | st.floats().map(repr))
def test_a_query_that_is_written_is_the_one_that_was_read(query: str, sign: str, number: str) -> None:
    assert_is_read_back(f"promql({query}) {sign} {number}")


def test_guards_are_not_empty_and_name_each_metric_once() -> None:
    with pytest.raises(RolloutError, match="give at least one --guard"):
        parse_guards(())
    with pytest.raises(RolloutError, match="errors has two guards"):
        parse_guards(("errors < stable + 1%", "errors < stable + 2%"))
    assert len(parse_guards(("promql(a) < 1", "promql(b) < 1"))) == 2
    most = tuple(f"promql(up{number}) < 1" for number in range(MAX_GUARDS))
    assert len(parse_guards(most)) == MAX_GUARDS
    with pytest.raises(RolloutError, match="a rollout has at most 16 guards, these are 17: leave some out"):
        parse_guards((*most, "errors < stable + 1%"))
    with pytest.raises(RolloutError, match="up has two guards"):
        parse_guards(("promql(up) < 1", "promql(up) > 0"))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("1d", 86400.0)])
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["10", "m", "-1m", "10 minutes", "8d", "1e9s", ""])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RolloutError):
        parse_duration(text)


def test_the_defaults_are_a_plan_with_a_salt_of_its_own() -> None:
    one, other = plan(), plan()
    assert one.steps == STEPS
    assert one.guards == GUARDS
    assert one.salt != other.salt
    assert one.id != other.id


def test_agreement_and_computing_time_need_shadows() -> None:
    assert all("agreement" not in guard for guard in plan(steps=("10%", "100%")).guards), "left out of the defaults"
    with pytest.raises(RolloutError, match="agreement > 90% is measured by shadows"):
        plan(steps=("10%", "100%"), guards=("agreement > 90%",))
    assert plan(steps=("10%", "100%")).guards == ("errors < stable + 1%", "p99 < 1.5 × stable")
    with pytest.raises(RolloutError, match="compute < 2 × stable is measured by shadows"):
        plan(steps=("10%", "100%"), guards=("compute < 2 × stable",))


def test_a_candidate_that_is_live_already_is_refused() -> None:
    with pytest.raises(RolloutError, match="version 1 is what champion names already"):
        plan(candidate="1")


@pytest.mark.parametrize(
    "changed",
    [
        {"id": "../../../../victim/**/*"},
        {"id": "/etc"},
        {"id": "**x"},
        {"id": ""},
        {"candidate": "abc"},
        {"stable": "../1"},
        {"candidate": "1" * 19},
    ],
)
def test_what_a_record_says_is_no_path(changed: dict[str, str]) -> None:
    record = msgspec.to_builtins(plan())
    assert msgspec.convert(record, Plan).candidate == "2"
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(record | changed, Plan)
