"""Signatures of contracts by OpenSSF model-signing (1.1), with elliptic-curve keys and offline.

What is signed is a file with the contract's digest, which covers every file of the artifact. The signature, a Sigstore
bundle, lies beside `MLmodel`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.checkpoint_files import one_line
from registry.environment import InvalidSetting
from registry.errors import UnsignedArtifact
from registry.extras import how_to_install
from registry.held_folder import held_folder
from registry.plain_files import open_plain

SIGNATURE = "contract.sig"
"""Name of the signature in the artifact."""
STATEMENT = "contract.sha256"
"""Name of the file that is signed."""
MAX_BYTES = 1 << 20


class Signer:
    """Signs with a private key: a PEM file of the curve P-256, P-384 or P-521, without a password."""

    def __init__(self, key: Path) -> None:
        """Read the key. Raises InvalidSetting."""
        self._key = key
        try:
            from model_signing import signing

            make: Any = signing.Config  # untyped
            self._config = make().use_elliptic_key_signer(private_key=key)
        except ImportError as error:
            raise InvalidSetting(f"--sign {key} needs model-signing: {how_to_install('signing')}") from error
        except Exception as error:  # whatever cryptography says of a file that is no key
            raise InvalidSetting(
                f"--sign {key} is no key to sign with ({one_line(error)}): give a PEM file, as made by "
                "`openssl ecparam -name prime256v1 -genkey -noout`"
            ) from error

    def sign(self, root: Path, digest: str) -> None:
        """Write the signature of the contract with this digest to the artifact at `root`."""
        with held_folder("headwaiter-signature-") as folder:
            self._config.sign(_state(folder, digest), root / SIGNATURE)


def check_signature(root: Path, digest: str, keys: Sequence[Path]) -> None:
    """Check that one of the public keys belongs to the signature of the contract with this digest.

    keys: PEM files. Raises UnsignedArtifact where there is no signature, or none of them made it.
    """
    try:
        with open_plain(root, SIGNATURE, MAX_BYTES) as file:
            signature = file.readall()
    except FileNotFoundError as error:
        raise UnsignedArtifact(
            "the artifact is not signed, and HEADWAITER_VERIFY_KEYS allows signed ones only: log the model again with "
            "--sign"
        ) from error
    with held_folder("headwaiter-signature-") as folder:
        statement, bundle = _state(folder, digest), folder / SIGNATURE
        bundle.write_bytes(signature)
        reasons = [_find_problem(statement, bundle, key) for key in keys]
    if all(reasons):
        raise UnsignedArtifact(
            f"no key of HEADWAITER_VERIFY_KEYS made the signature of this artifact ({reasons[0]}): log the model again "
            "with --sign and a key that is allowed, or allow its key"
        )


def _find_problem(statement: Path, bundle: Path, key: Path) -> str:
    """Why the key did not make the signature, or empty if it did."""
    from model_signing import verifying

    make: Any = verifying.Config  # untyped
    try:
        make().use_elliptic_key_verifier(public_key=key).verify(statement, bundle)
    except Exception as error:  # of a bundle that somebody made up, any
        return one_line(error, 100)
    return ""


def _state(folder: Path, digest: str) -> Path:
    """The folder with the file that is signed. model-signing compares names and contents, the folder's included."""
    statement = folder / "contract"
    statement.mkdir()
    (statement / STATEMENT).write_text(digest, encoding="ascii")
    return statement
