"""How a user names a model: `name`, `name@alias` or `name/version`; and the version that was found for it."""

from dataclasses import dataclass

from registry.patterns import is_version
from registry.settings import DEFAULT_ALIAS, InvalidSetting, check_alias, check_model_name


@dataclass(frozen=True)
class Reference:
    """A model and either the alias to follow or the version to stay at; exactly one of the two is set."""

    name: str
    alias: str | None = None
    version: str | None = None

    @classmethod
    def parse(cls, text: str, default_alias: str = DEFAULT_ALIAS) -> "Reference":
        """Read `name[@alias|/version]`; without either, the default alias. Raises InvalidSetting."""
        name, at, alias = text.partition("@")
        name, slash, version = name.partition("/")
        if (at and (slash or not alias)) or (slash and not is_version(version)):
            raise InvalidSetting(
                f"{text[:300]!r} names no model: write NAME, NAME@ALIAS or NAME/VERSION, where a version is a whole "
                "number"
            )
        check_model_name(name)
        if slash:
            return cls(name=name, version=version)
        return cls(name=name, alias=check_alias(alias or default_alias))

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version else f"{self.name}@{self.alias}"


@dataclass(frozen=True)
class ResolvedVersion:
    """A version, found once; from here on only the number is used.

    source: MLflow's address of the files. digest: sha256 of its contract as logged, None if it has no such tag. files:
    of a version that was logged without a contract, the sha256 of its files when it was promoted.
    """

    name: str
    version: str
    source: str
    digest: str | None
    files: str | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether the registry says which files are meant."""
        return self.digest is not None or self.files is not None
