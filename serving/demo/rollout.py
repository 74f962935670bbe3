"""One rollout under the requests of clients, and what became of it. Next: `rollout_tour`, which shows four of them."""

import time

import httpx
import msgspec

from registry.rollout.control import Rollouts
from registry.rollout.plan import STEPS
from serving.demo.server import SWAP_SECONDS, Say, wait
from serving.demo.traffic import Sent, Traffic

STEPS_OF_GOOD = ("shadow:200", "10%", "50%", "100%")
"""With 1 % it would take 130,000 requests until it is certain that the candidate fails no more often."""
GUARDS = ("errors < stable + 0.5%", "p90 < 1.5 × stable", "compute < 2 × stable", "agreement > 90%")
LIMIT_SECONDS = 900.0
LOOK_SECONDS = 0.5
"""Between two looks at the registry, which takes processor time from the server."""


class DemoCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """A version to roll out. title: what is the matter with it. is_good: whether it is to be promoted."""

    version: str
    title: str
    steps: tuple[str, ...] = STEPS
    guards: tuple[str, ...] = GUARDS
    is_good: bool = False


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a candidate. Times are in seconds since the epoch.

    began: when it was loaded, so that shadows began. ended: when it was caught, or its promotion was final. phase,
    step, why: how it ended. steps: when each step was first seen. sent: the requests of clients from the beginning
    until the candidate had left, or was promoted.
    """

    candidate: DemoCandidate
    stable: str
    began: float
    ended: float
    phase: str
    step: str
    why: str
    steps: list[tuple[float, str]]
    sent: list[Sent]

    @property
    def requests(self) -> int:
        """Of clients, until it ended."""
        return sum(each.at < self.ended for each in self.sent)

    @property
    def harmed(self) -> int:
        """Requests of clients that failed or that a candidate answered which is not as good, even if rightly."""
        own = None if self.candidate.is_good else self.candidate.version
        return sum(each.status != 200 or each.version == own for each in self.sent)

    @property
    def harmed_share(self) -> float:
        """Of all requests, 0 to 1."""
        return self.harmed / max(1, self.requests)

    def __str__(self) -> str:
        how = self.phase if self.candidate.is_good else f"{self.phase} at {self.step}"
        return (
            f"{how} after {self.ended - self.began:.1f} s and {self.requests:,} requests, "
            f"{self.harmed} of them harmed ({self.harmed_share:.2%})"
        )


def roll_out(
    rollouts: Rollouts, client: httpx.Client, traffic: Traffic, name: str, candidate: DemoCandidate, say: Say
) -> Rollout:
    """Roll a candidate of model `name` out, and tell what became of it. Raises EngineError if it never ends."""
    options = f"--every 1s --bake 2s {' '.join(f'--guard {guard!r}' for guard in candidate.guards)}"
    say(f"\n   Version {candidate.version}: {candidate.title}")
    say(f"   headwaiter rollout start {name} {candidate.version} --steps {','.join(candidate.steps)} {options} …")
    state = rollouts.start(
        name,
        candidate.version,
        why=candidate.title,
        steps=candidate.steps,
        every="1s",
        bake="2s",
        guards=candidate.guards,
    )

    def candidate_state() -> str | None:
        entry = client.get(f"/models/{name}").json()["versions"].get(candidate.version)
        return entry and str(entry["state"])

    wait(lambda: candidate_state() == "ready", f"version {candidate.version} to be loaded", SWAP_SECONDS)
    began, first = time.time(), len(traffic.sent)
    steps: list[tuple[float, str]] = []

    def is_over() -> bool:
        nonlocal state
        state = rollouts.state(name) or state
        if not steps or steps[-1][1] != str(state.step):
            steps.append((time.time(), str(state.step)))
        return state.stop is not None or state.done is not None

    wait(is_over, f"the rollout of version {candidate.version} to end", LIMIT_SECONDS, LOOK_SECONDS)
    end = state.stop or state.done
    if state.stop is not None:
        wait(lambda: candidate_state() is None, f"version {candidate.version} to leave", SWAP_SECONDS)
    found = Rollout(
        candidate=candidate,
        stable=state.plan.stable,
        began=began,
        ended=end.time if end is not None else time.time(),
        phase=state.phase,
        step=str(state.step),
        why=end.why if end is not None else "",
        steps=steps,
        sent=traffic.sent[first:],
    )
    say(f"   → {found}\n     {found.why}")
    return found
