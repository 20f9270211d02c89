"""Files made by an attacker: refused by an ArtifactError, in bounded memory; saves that are killed; signatures."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from explainers import Explainer
from explainers.backend import named
from explainers.errors import ArtifactError, InputError
from explainers.file import container, read_manifest

from . import artifacts
from .artifacts import members, rewritten, zipped
from .child import run
from .test_artifact import compiled

MEGABYTES = 2**20


@pytest.fixture(scope="module")
def content() -> bytes:
    buffer = io.BytesIO()
    compiled("torch", "deeplift", baseline=np.ones(5, "float32"))[0].save(buffer)
    return buffer.getvalue()


def refused(content: bytes, said: str, largest: float = 30) -> None:
    """Assert that a file is refused for this reason, by all that reads it, within ``largest`` MB."""
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match=said):
            Explainer.load(content)
        assert tracemalloc.get_traced_memory()[1] < largest * MEGABYTES
    finally:
        tracemalloc.stop()


# --- containers ------------------------------------------------------------------------------


def _local(name: str, content: bytes) -> bytes:
    head = (b"PK\3\4", 20, 0, 0, 0, 0x21, zlib.crc32(content), len(content), len(content), len(name), 0)
    return struct.pack("<4sHHHHHLLLHH", *head) + name.encode()


def nested(count: int, size: int) -> bytes:
    """A zip in which each member's content is all the members behind it."""
    tail, found = b"\0" * size, []
    for number in reversed(range(count)):
        name = f"m{number:04d}"
        found.append((name, tail))
        tail = _local(name, tail) + tail
    listed = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in found}
    manifest = json.dumps({"format": 1, "members": listed}).encode()
    whole = tail + _local(container.MANIFEST, manifest) + manifest
    directory, place = b"", 0
    for name, data in [*reversed(found), (container.MANIFEST, manifest)]:
        place = len(tail) if name == container.MANIFEST else place
        numbers = (zlib.crc32(data), len(data), len(data), len(name), 0, 0, 0, 0, 0, place)
        directory += struct.pack("<4sBBHHHHHLLLHHHHHLL", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0x21, *numbers) + name.encode()
        place += 30 + len(name)
    return whole + directory + struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, count + 1, count + 1, len(directory),
                                           len(whole), 0)  # fmt: skip


def test_members_that_share_bytes_are_refused() -> None:
    content = nested(100, MEGABYTES)
    assert len(content) < 1.2 * MEGABYTES
    refused(content, "overlaps with another one")


@pytest.mark.parametrize("name", ["manifest.json", "graph.json"])
def test_json_without_end_is_refused_before_it_is_parsed(
    name: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = "LARGEST_MANIFEST" if name == "manifest.json" else "LARGEST_JSON"
    monkeypatch.setattr(container, limit, MEGABYTES)
    files = {**members(content), name: b'{"format": 1, "x": [' + b"[]," * (MEGABYTES // 3) + b"0]}"}
    refused(zipped([*files.items()]), f"its {name} has .* bytes; files have at most {MEGABYTES}")


def test_a_manifest_has_at_most_a_megabyte() -> None:
    assert container.LARGEST_MANIFEST == MEGABYTES


def test_too_many_members_are_refused() -> None:
    refused(zipped([(f"m{i}", b"") for i in range(container.MOST_MEMBERS + 1)]), "at most 10000")


@pytest.mark.parametrize("engine", ["torchscript", "eager"])
def test_programs_that_grow_when_they_are_expanded_are_refused(engine: str) -> None:
    buffer = io.BytesIO()
    compiled("torch", "gradient", engine=engine)[0].save(buffer)
    name = "program.pt" if engine == "torchscript" else "explain.pt2"
    inner = zipped([("archive/constants.pkl", b"\0" * 20 * MEGABYTES)], zipfile.ZIP_DEFLATED)
    bomb = rewritten(buffer.getvalue(), lambda _, files: files.update({name: inner}))
    refused(bomb, f"{name} has .* bytes and would have {20 * MEGABYTES} once it is expanded")


def test_a_large_manifest_keeps_its_long_entries_in_the_details(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "LARGEST_MANIFEST", 3000)
    explain, x = compiled("torch", "deeplift")
    buffer = io.BytesIO()
    explain.save(buffer)
    assert "details.json" in members(buffer.getvalue())
    np.testing.assert_array_equal(Explainer.load(buffer.getvalue())(x, target=1), explain(x, target=1))
    assert read_manifest(buffer.getvalue()).signature == explain.signature
    more = rewritten(buffer.getvalue(), lambda data, files: files.update({"details.json": b'{"method": 1}'}))
    refused(more, "does not hold what the manifest leaves out")
    monkeypatch.setattr(container, "LARGEST_JSON", 2000)
    with pytest.raises(ArtifactError, match=r"would have .* bytes, and files have at most"):
        explain.save(io.BytesIO())


# --- entries of the manifest -----------------------------------------------------------------

WRONG: list[Any] = [None, True, 0, -5, 2**41, 10**30, 1.5, "x\x1b", [], [0], {}, {"float": "inf"}, {"length": [1]}]
NUMBERS = [("batch_size",), ("options", "batch_size"), ("places", 0), ("wrt", 0, 1), ("coverage", 0, "fields", "count"),
           ("signature", "fields", "positional"), ("specs", 0, "fields", "shape", "tuple", 1),
           ("signature", "fields", "inputs", "tuple", 0, "fields", "shape", "tuple", 1),
           ("parts", "explain", 0, "fields", "shape", "tuple", 0)]  # fmt: skip
ALLOWED = {  # entries that these values may have, since they mean something else
    ("options", "batch_size"): [None],
    ("places", 0): [None, 0],
    ("wrt", 0, 1): [0],
    ("coverage", 0, "fields", "count"): [0, 2**41],
    ("signature", "fields", "positional"): [0],
}


def changed(content: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    """The file with another entry in its manifest, and checksums that fit."""

    def change(data: Any, _: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = value

    return rewritten(content, change)


@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: ".".join(map(str, path)))
def test_every_number_is_checked_for_its_range(path: tuple[Any, ...], content: bytes) -> None:
    for value in WRONG:
        if any(value is known or (value == known and type(value) is type(known)) for known in ALLOWED.get(path, [])):
            continue
        with pytest.raises(ArtifactError):
            Explainer.load(changed(content, path, value))


@pytest.mark.parametrize("constant", [float("inf"), float("nan")])
def test_numbers_that_json_does_not_have_are_refused(constant: float, content: bytes) -> None:
    data = json.loads(members(content)["manifest.json"])
    files = {**members(content), "manifest.json": json.dumps({**data, "batch_size": constant}).encode()}
    refused(zipped([*files.items()]), "is not JSON: it holds (Infinity|NaN)")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("device",), "cpu\x1b[2J", "device.*does not hold what this version expects"),
        (("device",), "toaster", "cannot load its programs"),
        (("versions", "torch"), ["2"], "versions"),
        (("versions",), "2.0", "versions"),
        (("attributed",), ["other"], "'attributed' does not fit the rest"),
        (("places",), [], "not one for each"),
        (("places",), [7], "does not hold"),
        (("output",), "1", "'output' does not fit"),
        (("options", "baseline"), "x", "'baseline' does not fit"),
        (("options", "baseline"), {"float": "inf"}, "'baseline' does not fit"),
        (("options", "wrt"), {"role": "linear"}, "'wrt' does not fit"),
        (("parts", "explain"), [], r"takes \d+ arguments; the manifest lists 0"),
        (("method", "fields", "logits"), 1, "DeepLift.logits does not hold"),
        (("signature", "fields", "conditions"), {"tuple": ["__import__('os')"]}, "'conditions' does not fit"),
        (("signature", "fields", "conditions"), {"tuple": ["-" * 1900 + "1"]}, "'conditions' does not fit"),
    ],
)
def test_wrong_entries_are_refused_by_name(path: tuple[Any, ...], value: Any, said: str, content: bytes) -> None:
    refused(changed(content, path, value), said, 300)


@pytest.mark.parametrize("samples", [10**9, 10**30])
def test_a_file_asks_for_no_boundless_effort(samples: int) -> None:
    buffer = io.BytesIO()
    explain, _ = compiled("torch", "smoothgrad")
    explain.save(buffer)
    refused(changed(buffer.getvalue(), ("method", "fields", "samples"), samples), "holds numbers up to 10000000")
    with pytest.raises(ArtifactError, match="holds numbers up to 10000000"):
        explain.replace(samples=samples).save(io.BytesIO())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("missing", ["explain", "predict", "reference"])
def test_programs_that_are_missing_are_told_at_load(missing: str, content: bytes) -> None:
    import torch

    class Program(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    def without(names: list[str]) -> bytes:
        parent = torch.nn.Module()
        for name in names:
            parent.add_module(name, Program())
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(parent), buffer)
        return rewritten(content, lambda _, files: files.update({"program.pt": buffer.getvalue()}))

    names = ["explain", "predict", "reference"]
    with pytest.raises(ArtifactError, match="its program 'explain' takes 1 arguments; the manifest lists"):
        Explainer.load(without(names))
    names.remove(missing)
    with pytest.raises(ArtifactError, match=f"has no program '{missing}'|takes 1 arguments"):
        Explainer.load(without(names))


def test_functions_that_a_saved_model_lacks_are_told_at_load() -> None:
    import tensorflow as tf

    from explainers_tensorflow import artifact

    buffer = io.BytesIO()
    compiled("tensorflow", "gradient")[0].save(buffer)
    module = tf.Module()
    module.predict = tf.function(lambda x: x).get_concrete_function(tf.TensorSpec((None, 5)))
    saved = artifact._written(module, {})

    def change(_: Any, files: dict[str, bytes]) -> None:
        for name in [name for name in files if name.startswith("saved_model/")]:
            del files[name]
        files.update(saved)

    refused(rewritten(buffer.getvalue(), change), "has no function 'explain'", 300)


# --- fuzzing ---------------------------------------------------------------------------------

ENTRIES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    st.sampled_from([[], {}, [[]], {"tuple": []}, {"float": "inf"}, {"array": "baseline:0"}, {"role": "linear"},
                     {"length": ["n", 2**62, "n", 2, 1, 3]}, {"slice": [1, 2, "x"]}, 2**31, 2**63, -1, "../x"]),
)  # fmt: skip


def paths(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from paths(value, (*path, key))


@st.composite
def mutations(draw: Any, content: bytes) -> bytes:
    """The file with bytes flipped, cut or repeated; or with other entries in its JSON, and checksums that fit."""
    if draw(st.integers(0, 2)) == 0:
        whole = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            start = draw(st.integers(0, len(whole) - 1))
            count = draw(st.sampled_from([1, 1, 2, 8, 100]))
            whole[start : start + count] = draw(st.sampled_from([b"", b"\xff" * count, bytes(whole[:count])]))
        return bytes(whole)
    name = draw(st.sampled_from(["manifest.json", "graph.json"]))
    files = members(content)
    data = json.loads(files.pop("manifest.json"))
    changed_data = data if name == "manifest.json" else json.loads(files["graph.json"])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([*paths(changed_data)]))
        parent = changed_data
        for step in path[:-1]:
            parent = parent[step]
        if draw(st.booleans()):
            parent[path[-1]] = draw(ENTRIES)
        else:
            del parent[path[-1]]
    if name == "graph.json":
        files["graph.json"] = json.dumps(changed_data).encode()
    data["members"] = {n: {"size": len(f), "sha256": hashlib.sha256(f).hexdigest()} for n, f in files.items()}
    return zipped([("manifest.json", json.dumps(data).encode()), *files.items()])


def fuzz(content: bytes, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load ``count`` mutated files: an ArtifactError or an explainer. The programs are those of the original."""
    backend = named("torch")
    files = members(content)
    parts = json.loads(files.pop("manifest.json"))["parts"]
    program = {"program.pt": files["program.pt"]}
    original = backend.load(program, engine="torchscript", device="cpu", parts=parts)
    monkeypatch.setattr(type(backend), "load", lambda *args, **options: original)

    outcomes = {"refused": 0, "read": 0}
    largest = 0

    @settings(max_examples=count, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(mutations(content))
    def check(mutated: bytes) -> None:
        nonlocal largest
        tracemalloc.start()
        for read in (read_manifest, Explainer.load):
            try:
                read(mutated)
            except ArtifactError:
                outcomes["refused"] += 1
            else:
                outcomes["read"] += 1
        largest = max(largest, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    check()
    assert outcomes["refused"] > outcomes["read"] > 0
    assert largest < 100 * MEGABYTES


def test_mutated_files_are_refused_or_load(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(content, 300, monkeypatch)


@pytest.mark.slow
def test_ten_thousand_mutated_files(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(content, 10_000, monkeypatch)


# --- killed while writing --------------------------------------------------------------------

KILLED = """
    import json, os, random, signal, sys, time
    from explainers.file import container

    versions = [{"a.bin": bytes([number]) * 3_000_000, "b.bin": bytes([number]) * 100} for number in (1, 2)]
    container.write("x.explainer", {"number": 0}, versions[0])
    found = []
    random.seed(0)
    for attempt in range(COUNT):
        child = os.fork()
        if child == 0:
            number = 0
            while True:
                number += 1
                container.write("x.explainer", {"number": number}, versions[number % 2])
        time.sleep(random.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        data, files = container.read("x.explainer")  # raises for half a file
        found.append(files == versions[data["number"] % 2])
    print(json.dumps([found, len([name for name in os.listdir() if name.endswith(".part")])]))
"""


def killed(folder: Path, count: int) -> None:
    found, parts = run(KILLED.replace("COUNT", str(count)), folder, PYTHONPATH=artifacts.importable())
    assert found == [True] * count
    assert parts > 0  # some were killed in the middle


def test_a_killed_save_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    killed(tmp_path, 20)


@pytest.mark.slow
def test_a_hundred_killed_saves(tmp_path: Path) -> None:
    killed(tmp_path, 100)


# --- signatures ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys() -> tuple[Any, Any]:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    return ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()


def test_a_signed_file_loads_with_its_key_and_not_with_another(keys: tuple[Any, Any], tmp_path: Path) -> None:
    key, other = keys
    explain, x = compiled("torch")
    explain.save(tmp_path / "signed", sign=key)
    explain.save(tmp_path / "plain")
    for trusted in (key.public_key(), [other.public_key(), key.public_key()], None):
        found = Explainer.load(tmp_path / "signed", trusted=trusted)
        np.testing.assert_array_equal(found(x, target=1), explain(x, target=1))
    assert read_manifest(tmp_path / "signed").signers == (key.public_key().public_bytes_raw().hex(),)
    assert read_manifest(tmp_path / "plain").signers == ()
    with pytest.raises(ArtifactError, match=r"signed' is refused: it is signed by .* none of the trusted keys"):
        Explainer.load(tmp_path / "signed", trusted=other.public_key())
    with pytest.raises(ArtifactError, match=r"plain' is refused: it is not signed"):
        Explainer.load(tmp_path / "plain", trusted=key.public_key())


def test_a_signature_covers_every_byte_that_is_used(keys: tuple[Any, Any]) -> None:
    key, other = keys
    buffer = io.BytesIO()
    compiled("torch", "deeplift", baseline=np.ones(5, "float32"))[0].save(buffer, sign=key)
    content, trusted = buffer.getvalue(), key.public_key()
    files = members(content)
    forgeries = [artifacts.flipped(content, name) for name in files]
    forgeries.append(changed(zipped([(n, f) for n, f in files.items() if n != "signatures.json"]), ("batch_size",), 7))
    own = json.loads(files["signatures.json"])
    for entries in (
        [], [{**own[0], "signature": own[0]["signature"][:-2] + "00"}],
        [{**own[0], "key": other.public_key().public_bytes_raw().hex()}],
        [{**own[0], "signature": other.sign(files["manifest.json"]).hex()}], [3], {"key": 1}, [{}],
    ):  # fmt: skip
        forgeries.append(zipped([*{**files, "signatures.json": json.dumps(entries).encode()}.items()]))
    moved = copy.deepcopy(own)
    manifest = json.loads(files["manifest.json"])
    manifest["batch_size"] = 7
    changed_files = {
        **files,
        "manifest.json": json.dumps(manifest).encode(),
        "signatures.json": json.dumps(moved).encode(),
    }
    forgeries.append(zipped([*changed_files.items()]))
    for forged in forgeries:
        with pytest.raises(ArtifactError):
            Explainer.load(forged, trusted=trusted)
    assert Explainer.load(content, trusted=trusted)


def test_keys_come_from_pem_files(keys: tuple[Any, Any], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import rsa

    key, _ = keys
    private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    locked = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"secret"))
    (tmp_path / "key.pem").write_bytes(private)
    (tmp_path / "public.pem").write_bytes(public)
    explain, _ = compiled("torch")
    explain.save(tmp_path / "x", sign=tmp_path / "key.pem")
    assert Explainer.load(tmp_path / "x", trusted=str(tmp_path / "public.pem"))
    assert Explainer.load(tmp_path / "x", trusted=public)
    wrong = [(locked, "is encrypted"), (b"no key", "holds no private key"), (public, "holds no private key"),
             (3, "sign takes a key"), (rsa.generate_private_key(65537, 2048), "sign takes"),
             (tmp_path / "none.pem", "cannot be read.*openssl genpkey")]  # fmt: skip
    for given_key, said in wrong:
        with pytest.raises(InputError, match=said):
            explain.save(tmp_path / "y", sign=given_key)
    for given_key, said in [([], "holds no key"), (private, "holds no public key"), (3, "trusted takes")]:
        with pytest.raises(InputError, match=said):
            Explainer.load(tmp_path / "x", trusted=given_key)
    assert not (tmp_path / "y").exists()


def test_signing_without_cryptography_says_what_to_install(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    import sys

    from explainers.errors import BackendMissing

    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(BackendMissing, match=r"pip install 'explainers\[sign\]'"):
        Explainer.load(content, trusted=b"key")
