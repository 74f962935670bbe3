"""The commands of a rollout: start, status, pause, resume, abort, finish."""

from typing import TYPE_CHECKING, Any

import click

from registry.rollout.plan import BAKE, EVERY, GUARDS, STEPS
from registry.settings import DEFAULT_ALIAS
from serving.commands import options
from serving.commands.errors import errors, recorded

if TYPE_CHECKING:
    from registry.rollout.control import Rollouts
    from registry.rollout.state import RolloutState


@click.group()
def rollout() -> None:
    """Give a version a growing share of a model's requests, and take it back by itself where a guard fails.

    Servers that follow the alias take part; one of them leads. See docs/rollouts.md.
    """


@rollout.command()
@click.argument("name")
@click.argument("version")
@options.why
@options.who
@click.option("--alias", default=DEFAULT_ALIAS, show_default=True, help="What the version is to become.")
@click.option(
    "--steps",
    default=",".join(STEPS),
    show_default=True,
    metavar="STEP[,STEP]…",
    help="shadow:COUNT compares COUNT requests; SHARE% lets the candidate answer that share. The last step is 100%.",
)
@click.option("--every", default=EVERY, show_default=True, metavar="TIME", help="How long each step takes at least.")
@click.option("--bake", default=BAKE, show_default=True, metavar="TIME", help="How long guards go on after 100%.")
@click.option(
    "--guard",
    "guards",
    multiple=True,
    default=GUARDS,
    show_default=True,
    metavar="GUARD",
    help="What the version must keep to; may be given again, and replaces the defaults.",
)
@click.option("--allow-breaking", metavar="REASON", help="Start although clients of the live version will notice.")
@options.as_json
def start(
    name: str,
    version: str,
    why: str,
    who: str | None,
    alias: str,
    steps: str,
    every: str,
    bake: str,
    guards: tuple[str, ...],
    allow_breaking: str | None,
    as_json: bool,
) -> None:
    """Begin to roll VERSION of NAME out. It is checked first, as by promote."""
    plan: dict[str, Any] = {"steps": steps.split(","), "every": every, "bake": bake, "guards": guards}
    begin(name, version, why=why, who=who, alias=alias, allow_breaking=allow_breaking, as_json=as_json, **plan)


def begin(
    name: str,
    version: str,
    *,
    why: str,
    who: str | None,
    alias: str,
    allow_breaking: str | None,
    as_json: bool,
    **plan: Any,
) -> None:
    """Start a rollout and print it. plan: steps, every, bake and guards, where they are not the defaults."""
    with errors(), recorded(f"rollout start {name} {version} --alias {alias}", who):
        state = _rollouts().start(name, version, why=why, who=who, alias=alias, allow_breaking=allow_breaking, **plan)
    show(name, state, as_json)


@rollout.command("status")
@click.argument("name")
@options.as_json
def show_status(name: str, as_json: bool) -> None:
    """Show NAME's latest rollout: its step, what its guards say, and what it waits for."""
    with errors():
        state = _rollouts().state(name)
    if state is None:
        raise click.ClickException(f"{name} has no rollout: begin one with headwaiter rollout start {name} VERSION")
    show(name, state, as_json)


@rollout.command()
@click.argument("name")
@options.why
@options.who
@options.as_json
def pause(name: str, why: str, who: str | None, as_json: bool) -> None:
    """Stay in the step where NAME's rollout is. Guards go on, and can still end it."""
    with errors(), recorded(f"rollout pause {name}", who):
        show(name, _rollouts().order(name, "pause", why=why, who=who), as_json)


@rollout.command()
@click.argument("name")
@options.why
@options.who
@options.as_json
def resume(name: str, why: str, who: str | None, as_json: bool) -> None:
    """Let NAME's rollout go on after a pause."""
    with errors(), recorded(f"rollout resume {name}", who):
        show(name, _rollouts().order(name, "resume", why=why, who=who), as_json)


@rollout.command()
@click.argument("name")
@options.why
@options.who
@options.as_json
def abort(name: str, why: str, who: str | None, as_json: bool) -> None:
    """End NAME's rollout: the stable version answers everything within one poll."""
    with errors(), recorded(f"rollout abort {name}", who):
        show(name, _rollouts().abort(name, why=why, who=who), as_json)


@rollout.command()
@click.argument("name")
@options.why
@options.who
@options.as_json
def finish(name: str, why: str, who: str | None, as_json: bool) -> None:
    """End NAME's rollout with the promotion of its version now, whatever its guards say."""
    with errors(), recorded(f"rollout finish {name}", who):
        show(name, _rollouts().finish(name, why=why, who=who), as_json)


def show(name: str, state: "RolloutState", as_json: bool) -> None:
    """Print a rollout: some lines, or a JSON object."""
    import msgspec

    if not as_json:
        click.echo("\n".join(describe(name, state)))
        return
    found = {"name": name, "phase": state.phase, "weight": state.weight, "live": state.live}
    click.echo(msgspec.json.encode(found | msgspec.to_builtins(_records(state))).decode())


def describe(name: str, state: "RolloutState") -> list[str]:
    """The lines of a rollout."""
    plan, progress = state.plan, state.progress
    steps = [f"[{step}]" if step == state.step and state.is_active else str(step) for step in state.steps]
    lines = [
        f"{name}@{plan.alias}  {plan.stable} → {plan.candidate}  {state.phase}  {'  '.join(steps)}",
        f"  begun by {plan.who}: {plan.why}",
    ]
    lines += [f"  {check.verdict:12}  {check.guard}: {check.figures}" for check in progress.checks if state.is_active]
    if state.is_active:
        waits = progress.waits_for or ("nothing" if progress.holder else "a server that follows the alias")
        lines.append(f"  waits for {waits}")
    end = state.stop or state.done
    if end is not None:
        lines.append(f"  ended by {end.who}: {end.why}")
    return lines


def _records(state: "RolloutState") -> dict[str, object]:
    return {part: getattr(state, part) for part in ("plan", "progress", "order", "stop", "done")}


def _rollouts() -> "Rollouts":
    from registry.rollout.control import Rollouts
    from registry.versions import Versions

    return Rollouts(Versions())
