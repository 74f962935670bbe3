"""The commands that move an alias, and that show who did: promote, rollback, history."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.commands import options
from serving.commands.errors import errors, recorded
from serving.commands.printable import printable
from serving.commands.rollout import begin

if TYPE_CHECKING:
    from registry.history import Move
    from serving.evaluation import Evaluator


@click.command()
@click.argument("name")
@click.argument("version")
@options.why
@options.who
@options.alias
@click.option("--allow-breaking", metavar="REASON", help="Promote it although clients of the live version will notice.")
@click.option(
    "--evaluate",
    "examples",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Labelled examples to score it on first, {"inputs": …, "label": …} a line.',
)
@click.option(
    "--require",
    "required",
    multiple=True,
    metavar="METRIC=BOUND",
    help="What it must reach on them, as accuracy=0.9; may be given again.",
)
@click.option("--auto", is_flag=True, help="Begin a rollout by the default steps instead; see headwaiter rollout.")
@options.as_json
def promote(
    name: str,
    version: str,
    why: str,
    who: str | None,
    alias: str,
    allow_breaking: str | None,
    examples: Path | None,
    required: tuple[str, ...],
    auto: bool,
    as_json: bool,
) -> None:
    """Make VERSION of NAME the live one; running servers follow within their poll interval.

    Before that its files are verified, and it is compared with the live version: a change that clients would notice is
    refused. With --json a refusal is printed as JSON, too.
    """
    from registry.errors import PromotionRefused
    from registry.versions import Versions

    if (examples is None) != (not required):
        raise click.UsageError(
            "--evaluate FILE and --require METRIC=BOUND go together: what to score on, and the bound"
        )
    if auto:
        if examples is not None:
            raise click.UsageError("--auto compares by requests: leave --evaluate and --require out")
        begin(name, version, why=why, who=who, alias=alias, allow_breaking=allow_breaking, as_json=as_json)
        return
    with errors(), recorded(f"promote {name} {version} --alias {alias}", who):
        try:
            move = Versions().promote(
                name,
                version,
                why=why,
                who=who,
                alias=alias,
                allow_breaking=allow_breaking,
                evaluate=_evaluator(examples, required) if examples is not None else None,
            )
        except PromotionRefused as refusal:
            if as_json:
                found = {"error": type(refusal).__name__, "message": str(refusal), "reasons": refusal.reasons}
                click.echo(json.dumps(found, ensure_ascii=False))
            raise
    show_moves([move], as_json)


@click.command()
@click.argument("name")
@options.why
@options.who
@options.alias
@options.as_json
def rollback(name: str, why: str, who: str | None, alias: str, as_json: bool) -> None:
    """Make the version live again that was live before, by history; given again, the one before that."""
    from registry.versions import Versions

    with errors(), recorded(f"rollback {name} --alias {alias}", who):
        show_moves([Versions().rollback(name, why=why, who=who, alias=alias)], as_json)


@click.command()
@click.argument("name")
@click.option("--alias", help="Only this alias.")
@options.as_json
def history(name: str, alias: str | None, as_json: bool) -> None:
    """List who moved NAME's aliases, when, where and why."""
    from registry.versions import Versions

    with errors():
        moves = Versions().history(name, alias)
    show_moves(moves, as_json)
    if not moves and not as_json:
        which = f"{name}@{alias}" if alias else f"an alias of {name}"
        click.echo(f"no move of {which} is recorded: promote and rollback record theirs, MLflow itself none", err=True)


def show_moves(moves: "list[Move]", as_json: bool) -> None:
    """Print them, oldest first: a line each, or a JSON list."""
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode(moves).decode())
        return
    for move in moves:
        click.echo(printable(describe_move(move)))


def describe_move(move: "Move") -> str:
    """One line: when, what, where, who and why, and what was measured or knowingly broken."""
    from datetime import UTC, datetime

    try:
        at = datetime.fromtimestamp(move.time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # a record that no clock made
        at = "at no time"
    parts = [
        f"{at}Z",
        f"{move.action:8}",
        move.alias,
        f"{move.from_version or 'none'} → {move.to_version}",
        move.who,
        " ".join(move.why.split()),
    ]
    if move.skipped:
        parts.append(f"(passed over, deleted: {', '.join(move.skipped)})")
    if move.evaluation is not None:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in move.evaluation.values.items())
        parts.append(f"({scores} on {move.evaluation.examples} examples)")
    if move.breaking:
        parts.append(f"(breaking: {'; '.join(move.breaking)}; because: {' '.join(move.allow_breaking.split())})")
    return "  ".join(parts)


def _evaluator(examples: Path, required: tuple[str, ...]) -> "Evaluator":
    from serving.evaluation import Evaluator

    bounds = {}
    for text in required:
        name, _, bound = text.partition("=")
        try:
            bounds[name] = float(bound)
        except ValueError:
            raise click.UsageError(f"--require {text!r}: write METRIC=BOUND, as accuracy=0.9") from None
    return Evaluator.read(examples, bounds)
