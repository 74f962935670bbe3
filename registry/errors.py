"""Everything that can go wrong in the registry, as a tree.

RegistryError
├── HeadError                 the architecture, the task and the checkpoint do not go together
│   ├── UnknownTask           no such task
│   ├── UnsupportedHead       the architecture lacks the task's head
│   ├── WrongHead             the checkpoint's own head is another one
│   ├── RandomHead            the head's weights are not in the checkpoint
│   └── MismatchedHead        the head's weights have another shape than the configuration says
├── ArtifactError             the files cannot be served
│   ├── UnsafeArtifact        pickled weights or remote code
│   ├── IncompleteArtifact    a needed file or setting is missing
│   ├── UnreadableArtifact    a file, or a value in it, that cannot be read or run
│   ├── WrongBase             an adapter was not trained on the base model that was given
│   ├── UnpinnedArtifact      the registry records no digest, so nothing says which files are meant
│   ├── UnsignedArtifact      nobody signed it whose key is allowed
│   └── DigestMismatch        a file is not the one that was logged
├── ContractError             the contract is missing, of another format, or contradicts itself
├── NotFound                  no such model, version or alias
├── HistoryError              nothing to roll back to, or a move that cannot be written down or read
├── RolloutError              a rollout that cannot be read or started, or is not under way
├── PromotionRefused          a gate is shut: the alias stays where it is
│   ├── DamagedVersion        the candidate's files are not those that were logged
│   ├── BreakingChange        clients of what is live would notice the candidate
│   └── NotGoodEnough         the candidate misses a required metric
└── RegistryUnavailable       MLflow did not answer
    └── RequestRefused        MLflow answered, and refuses this one request

They know nothing of HTTP: `serving.errors` maps them where that is needed.
"""

from collections.abc import Sequence

from registry.redaction import RedactedError, redact


class RegistryError(RedactedError):
    """Base class: the message names the value, the rule and what to do next."""


class CheckpointWarning(UserWarning):
    """Something about a checkpoint that is logged all the same; the message says what to do about it."""


class HeadError(RegistryError):
    """The architecture, the task and the checkpoint do not go together."""


class UnknownTask(HeadError):
    """There is no such task."""


class UnsupportedHead(HeadError):
    """The architecture has no class with the head that the task needs."""


class WrongHead(HeadError):
    """The checkpoint was saved with another head than the task's."""


class RandomHead(HeadError):
    """Weights of the head are not in the checkpoint, so they would be random."""


class MismatchedHead(HeadError):
    """Weights of the checkpoint have another shape than the configuration asks for, as with a wrong `num_labels`."""


class ArtifactError(RegistryError):
    """The files of a model cannot be served."""


class UnsafeArtifact(ArtifactError):
    """The files hold pickled weights or ask for remote code."""


class IncompleteArtifact(ArtifactError):
    """A file or a setting that serving needs is missing."""


class UnreadableArtifact(ArtifactError):
    """A file, or a value in one, is not what it must be, or transformers cannot load or run the model with it."""


class WrongBase(ArtifactError):
    """The base model that was given is not the one that the adapter was trained on."""


class UnpinnedArtifact(ArtifactError):
    """The registry records no digest of the version, so nothing says which files are meant."""


class UnsignedArtifact(ArtifactError):
    """Signatures are asked for, and the artifact has none by a key that is allowed."""


class DigestMismatch(ArtifactError):
    """A file differs from the one whose digest the contract or the registry recorded."""


class ContractError(RegistryError):
    """The contract is missing, of an unknown format, or contradicts itself."""


class NotFound(RegistryError):
    """The registry has no such model, version or alias."""


class HistoryError(RegistryError):
    """The history names no version to go back to, or a move cannot be written down."""


class RolloutError(RegistryError):
    """A step, a guard or a record of a rollout that cannot be read, or a rollout that cannot be started or changed."""


class PromotionRefused(RegistryError):
    """A gate is shut, and the alias stays where it is. reasons: each thing that is wrong, in words."""

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(map(redact, reasons)) or (str(self),)


class DamagedVersion(PromotionRefused):
    """The candidate's files are not those that were logged, or cannot be served."""


class BreakingChange(PromotionRefused):
    """Clients of the live version would notice the candidate; reasons has each difference."""


class NotGoodEnough(PromotionRefused):
    """The candidate misses a required metric; reasons has each one."""


class RegistryUnavailable(RegistryError):
    """MLflow did not answer, or not in a form that can be understood."""


class RequestRefused(RegistryUnavailable):
    """MLflow answered, and refuses this one request, as for a user who may not read the model."""
