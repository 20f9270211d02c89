"""Ed25519 signatures of files: who made a file, and that nothing in it was changed since.

What is signed is :data:`DOMAIN` followed by the bytes of ``manifest.json``. The manifest has the size and the SHA-256
of every other member that is read, so a signature covers every byte that is used. ``signatures.json`` lists the public
keys and the signatures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, BackendMissing, InputError

DOMAIN = b"explainers file, format 1\n"  # so that no signature of something else is one of a file
MOST = 100  # signatures of a file
Key = Any  # a key of the package cryptography, the bytes of a PEM file, or its path
Keys = Key | Sequence[Key]
Checked = dict[str, Any]  # public keys by their bytes in hexadecimal


def private_key(given: Key) -> Any:
    """An Ed25519 private key. Raises InputError for anything else, BackendMissing without cryptography."""
    _, serialization, ed25519 = _cryptography()
    key = given
    if not isinstance(given, ed25519.Ed25519PrivateKey):
        content, name = _content(given, "sign")
        try:
            key = serialization.load_pem_private_key(content, password=None)
        except TypeError as error:
            raise InputError(
                f"{name} is encrypted: open it with cryptography's load_pem_private_key, and give the key itself"
            ) from error
        except ValueError as error:
            raise InputError(f"{name} holds no private key in PEM form ({error}). {HOW}") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise InputError(f"sign takes an Ed25519 private key; got a {type(key).__name__}. {HOW}")
    return key


HOW = "Make one with: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out public.pem"


def public_keys(given: Keys) -> Checked:
    """Ed25519 public keys by their bytes. Raises InputError for anything else, or for none."""
    _, serialization, ed25519 = _cryptography()
    keys = list(given) if isinstance(given, (list, tuple, set, frozenset)) else [given]
    if not keys:
        raise InputError("trusted holds no key, so that no file could be loaded; leave it out to check no signature")
    known: Checked = {}
    for entry in keys:
        key = entry
        if not isinstance(entry, ed25519.Ed25519PublicKey):
            content, name = _content(entry, "trusted")
            try:
                key = serialization.load_pem_public_key(content)
            except ValueError as error:
                raise InputError(f"{name} holds no public key in PEM form ({error}). {HOW}") from error
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise InputError(f"trusted takes Ed25519 public keys; got a {type(key).__name__}. {HOW}")
        known[key.public_bytes_raw().hex()] = key
    return known


def signed(manifest: bytes, key: Any) -> dict[str, str]:
    """One entry of ``signatures.json``."""
    return {"key": key.public_key().public_bytes_raw().hex(), "signature": key.sign(DOMAIN + manifest).hex()}


def verify(manifest: bytes, data: Any, trusted: Checked) -> None:
    """Raise ArtifactError unless one of the trusted keys has signed the manifest. ``data``: the signatures as JSON."""
    exceptions, _, _ = _cryptography()
    known = entries(data)
    if not known:
        raise ArtifactError("it is not signed, and trusted= (--trusted) takes only files that one of its keys signed")
    for name in known.keys() & trusted.keys():
        try:
            trusted[name].verify(known[name], DOMAIN + manifest)
        except exceptions.InvalidSignature as error:
            raise ArtifactError(
                f"its signature by the key {name} is not that of its contents: it was changed after it was signed"
            ) from error
        return
    raise ArtifactError(f"it is signed by {', '.join(known)}, which none of the trusted keys is: {', '.join(trusted)}")


def entries(data: Any) -> dict[str, bytes]:
    """The signatures by the public key in hexadecimal. ArtifactError for what is no list of signatures."""
    try:
        if len(data) > MOST or not isinstance(data, list):
            raise ValueError(f"{len(data)} entries")
        found = {entry["key"]: bytes.fromhex(entry["signature"]) for entry in data}
        if any(bytes.fromhex(key).hex() != key or len(key) != 64 for key in found):
            raise ValueError("a key has 32 bytes")
    except (TypeError, ValueError, LookupError) as error:
        raise ArtifactError(f"signatures.json is no list of keys and signatures: {error}") from error
    return found


def _content(given: Any, what: str) -> tuple[bytes, str]:
    """The bytes of a key, and what to call it in errors."""
    if isinstance(given, (str, os.PathLike)):
        try:
            return Path(given).read_bytes(), repr(os.fspath(given))
        except OSError as error:
            raise InputError(f"the key {os.fspath(given)!r} cannot be read: {error}. {HOW}") from error
    if isinstance(given, bytes):
        return given, "the key"
    raise InputError(f"{what} takes a key of cryptography, a PEM file's path or its bytes; got {type(given).__name__}")


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise BackendMissing("signatures need cryptography: pip install 'explainers[sign]'") from error
    return exceptions, serialization, ed25519
