"""Artifacts that are signed with a key, and servers that take no others."""

import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from registry.artifact import read_contract
from registry.cache import fetch, fetch_for_loading
from registry.environment import InvalidSetting
from registry.errors import DamagedVersion, UnsafeArtifact, UnsignedArtifact
from registry.flavor import log_model
from registry.references import Reference, ResolvedVersion
from registry.settings import RegistrySettings
from registry.signatures import SIGNATURE, Signer, check_signature
from registry.versions import Versions
from serving.commands.main import main

pytestmark = pytest.mark.slow


FIXTURE = Path(__file__).parents[1] / "fixtures" / "artifact-of-format-1"


def make_key(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """A private and a public key, as PEM files."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def trusting(settings: RegistrySettings, *keys: Path) -> RegistrySettings:
    return msgspec.structs.replace(settings, verify_keys=keys)


def test_a_model_that_was_signed_is_promoted_and_one_that_was_not_is_refused(
    models: dict[str, Path], settings: RegistrySettings, tmp_path: Path
) -> None:
    private, public = make_key(tmp_path, "ours")
    _, other = make_key(tmp_path, "theirs")
    log_model(models["single"], task="text-classification", name="m", sign=private)
    log_model(models["single"], task="text-classification", name="m", max_tokens=100)
    versions = Versions(trusting(settings, other, public))
    versions.promote("m", "1", why="signed")
    with pytest.raises(DamagedVersion, match="is not signed"):
        versions.promote("m", "2", why="not signed")
    signed = versions.resolve(Reference("m", version="1"))
    with pytest.raises(UnsignedArtifact, match="no key of HEADWAITER_VERIFY_KEYS"):
        fetch_for_loading(signed, trusting(settings, other))
    fetch(versions.resolve(Reference("m", version="2")), settings)  # without keys nobody asks for a signature


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURE, tmp_path / "artifact")


def version_of(stored: Path) -> ResolvedVersion:
    return ResolvedVersion("m", "1", stored.as_uri(), read_contract(FIXTURE).digest)


def test_an_artifact_that_was_cached_without_keys_is_checked_with_them(
    settings: RegistrySettings, stored: Path, tmp_path: Path
) -> None:
    private, public = make_key(tmp_path, "ours")
    fetch(version_of(stored), settings)
    with pytest.raises(UnsignedArtifact):
        fetch(version_of(stored), trusting(settings, public))
    Signer(private).sign(stored, read_contract(stored).digest)
    fetch(version_of(stored), settings)
    assert fetch(version_of(stored), trusting(settings, public))[0].is_dir()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_signature_is_of_one_contract(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = make_key(tmp_path, "ours", curve)
    Signer(private).sign(tmp_path, "a" * 64)
    check_signature(tmp_path, "a" * 64, [public])
    with pytest.raises(UnsignedArtifact, match="Signature mismatch"):
        check_signature(tmp_path, "b" * 64, [public])


@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b"\xff", b'{"dsseEnvelope": {"payload": "e30="}}'])
def test_a_made_up_signature_is_refused(tmp_path: Path, content: bytes) -> None:
    _, public = make_key(tmp_path, "ours")
    (tmp_path / SIGNATURE).write_bytes(content)
    with pytest.raises(UnsignedArtifact):
        check_signature(tmp_path, "a" * 64, [public])


def test_a_signature_is_a_plain_file(tmp_path: Path) -> None:
    _, public = make_key(tmp_path, "ours")
    (tmp_path / SIGNATURE).symlink_to(public)
    with pytest.raises(UnsafeArtifact, match="link"):
        check_signature(tmp_path, "a" * 64, [public])


def test_what_is_no_key_is_refused_before_anything_is_loaded(
    settings: RegistrySettings, models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text("no key")
    for key in ("key.pem", "missing.pem"):
        with pytest.raises(InvalidSetting, match=key):
            log_model(models["single"], task="text-classification", name="m", sign=tmp_path / key)
    arguments = ["log", str(models["single"]), "--task", "text-classification", "--name", "m"]
    done = CliRunner().invoke(main, [*arguments, "--sign", str(tmp_path / "key.pem")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "is no key to sign with" in done.stderr


def test_the_keys_are_files(tmp_path: Path) -> None:
    _, public = make_key(tmp_path, "ours")
    environ = {"HEADWAITER_HOME": str(tmp_path), "HEADWAITER_VERIFY_KEYS": f"{public}:{public}"}
    assert RegistrySettings.from_environment(environ).verify_keys == (public, public)
    with pytest.raises(InvalidSetting, match="missing.pub is no file"):
        RegistrySettings.from_environment(environ | {"HEADWAITER_VERIFY_KEYS": f"{public}:{tmp_path}/missing.pub"})
