"""The demo of rollouts: three candidates with real faults are caught on a real server, and one as good is promoted.

Clients ask all the while. What became of each request is written to `rollouts.json` in the demo's folder.
"""

from pathlib import Path

import msgspec

from registry.flavor import log_model
from registry.rollout.control import Rollouts
from registry.settings import RegistrySettings
from registry.versions import Versions
from serving.demo.candidates import lose_a_word, prefer_one_label, widen
from serving.demo.dataset import training_examples
from serving.demo.rollout import STEPS_OF_GOOD, DemoCandidate, roll_out
from serving.demo.server import Say, demo_folder, serve_model, use_home
from serving.demo.tour import NAME
from serving.demo.traffic import Traffic
from serving.demo.training import fine_tune, pretrained_encoder

SAVED_AT = (0.9, 1.0)
"""The shares of the training after which the stable version and the one that is as good are saved."""
WRONG_SHARE, FAILING_SHARE = 0.3, 0.02
WIDE = 24576
"""Neurons of a feed-forward layer; MiniLM has 1,536. A text then takes three to eight times as long, by processor."""
RECORD = "rollouts.json"


def run_rollouts(*, port: int, rate: float, home: Path | None, say: Say) -> None:
    """Run it and print its progress with `say`. Blocks until it is done, some minutes.

    rate: requests of clients a second. home: a folder to keep; None for one that is removed. Raises EngineError if the
    server does not come up, or a rollout does not end.
    """
    with demo_folder(home) as folder:
        settings = use_home(folder)
        texts = [example.text for example in training_examples(seed=1)]
        candidates = _make_candidates(folder, settings, texts, say)
        with serve_model(folder, NAME, port, say) as client:
            say(f"\n4. {rate:g} requests a second, and four rollouts")
            rollouts = Rollouts(Versions(settings))
            with Traffic(f"http://127.0.0.1:{port}/models/{NAME}", texts, rate) as traffic:
                found = [roll_out(rollouts, client, traffic, NAME, candidate, say) for candidate in candidates]
            seconds = traffic.sent[-1].at - traffic.sent[0].at
            say(f"\n   {len(traffic.sent):,} requests, {len(traffic.sent) / seconds:.0f} a second")
        (folder / RECORD).write_bytes(msgspec.json.encode(found))


def _make_candidates(folder: Path, settings: RegistrySettings, texts: list[str], say: Say) -> list[DemoCandidate]:
    """Log the stable version and its four candidates, of which the one that is as good comes last."""
    say("1. Fine-tuning a pretrained MiniLM to sort a support desk's messages …")
    stable, good = (
        version.folder
        for version in fine_tune(
            pretrained_encoder(), folder / "trained", saved_at=SAVED_AT, progress=lambda line: say(f"   {line}")
        )
    )
    wrong, slow, failing = (folder / "trained" / name for name in ("wrong", "slow", "failing"))
    prefer_one_label(stable, wrong, texts, WRONG_SHARE)
    widen(stable, slow, WIDE)
    word = lose_a_word(stable, failing, texts, FAILING_SHARE)
    asked = [text for text in texts if word not in text.lower()][:3]  # logging takes no model that fails on its example
    say("\n2. Logging them to MLflow …")
    versions = [
        log_model(path, task="text-classification", inputs=asked, name=NAME, settings=settings).version
        for path in (stable, wrong, failing, slow, good)
    ]
    Versions(settings).promote(NAME, versions[0], why="the first one")
    say(f"   {NAME}@champion is version {versions[0]}")
    return [
        DemoCandidate(
            version=versions[1], title=f"{WRONG_SHARE:.0%} of its answers are wrong, as it prefers one label"
        ),
        DemoCandidate(version=versions[2], title=f"fails on the {FAILING_SHARE:.0%} of texts with the word {word!r}"),
        DemoCandidate(version=versions[3], title=f"as good, but slow: {WIDE:,} neurons in a layer instead of 1,536"),
        DemoCandidate(version=versions[4], title="trained a tenth longer, as good", steps=STEPS_OF_GOOD, is_good=True),
    ]
