"""Files that the commands do not trust: what ``info`` shows of them, the text of their programs, and signatures."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer
from explainers.errors import ArtifactError

from .contract.artifacts import rewritten
from .contract.test_artifact import compiled
from .test_cli import MODEL, done, refused

EVIL = "\x1b[2J\x07\u202egnp\x9b\nmade with  a trusted version"


@pytest.fixture(scope="module")
def content() -> bytes:
    buffer = io.BytesIO()
    compiled("torch", "gradient")[0].save(buffer)
    return buffer.getvalue()


def test_info_writes_what_a_terminal_would_obey_as_text(content: bytes, tmp_path: Path) -> None:
    def change(data: dict[str, Any], _: Any) -> None:
        data["method_text"] = data["output"] = EVIL
        data["coverage"][0]["fields"]["op"] = EVIL
        data["signature"]["fields"]["inputs"]["tuple"][0]["fields"]["name"] = EVIL

    (tmp_path / "evil.explainer").write_bytes(rewritten(content, change))
    for options in ((), ("--coverage",), ("--json",)):
        text = done(tmp_path, "info", "evil.explainer", *options)
        assert not {*text} & {"\x1b", "\x07", "\u202e", "\x9b"}
        assert "[2J" in text  # it is there, as text
        assert not [line for line in text.split("\n") if line.strip().startswith("made with  a trusted")]


def test_info_says_which_lines_are_the_file_s_own_word(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.explainer").write_bytes(content)
    checked, own_word = done(tmp_path, "info", "x.explainer").split("The file's own word:")
    assert "bytes in" in checked
    assert "method" not in checked
    assert all(name in own_word for name in ("method", "inputs", "output", "made with"))
    assert json.loads(done(tmp_path, "info", "x.explainer", "--json"))["checked"] == ["size", "members"]


@pytest.mark.parametrize(
    ("backend", "engine", "said"),
    [
        ("torch", "torchscript", "torch.linear("),
        ("torch", "eager", "torch.ops.aten.mm.default(self="),
        ("tensorflow", "graph", "= MatMul("),
    ],
)
def test_info_prints_programs_without_running_them(
    backend: str, engine: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf
    import torch

    compiled(backend, "gradient", engine=engine)[0].save(tmp_path / "x.explainer")

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("a program was loaded")

    for owner, name in ((torch.jit, "load"), (torch.export, "load"), (torch, "load"), (tf.saved_model, "load")):
        monkeypatch.setattr(owner, name, never)
    text = done(tmp_path, "info", "x.explainer", "--code")
    assert said in text
    assert "return" in text
    with pytest.raises(ArtifactError, match="a program was loaded"):  # the control
        Explainer.load(tmp_path / "x.explainer")(np.zeros((1, 5), "float32"), target=1)


def test_info_escapes_the_text_of_programs(tmp_path: Path) -> None:
    import zipfile

    from .contract.artifacts import members, zipped

    buffer = io.BytesIO()
    compiled("torch", "gradient")[0].save(buffer)

    def change(_: Any, files: dict[str, bytes]) -> None:
        inner = {name: data + (EVIL.encode() if name.endswith(".py") else b"")
                 for name, data in members(files["program.pt"]).items()}  # fmt: skip
        files["program.pt"] = zipped([*inner.items()], zipfile.ZIP_STORED)

    (tmp_path / "evil.explainer").write_bytes(rewritten(buffer.getvalue(), change))
    text = done(tmp_path, "info", "evil.explainer", "--code")
    assert "\\x1b[2J" in text
    assert not {*text} & {"\x1b", "\x07", "\u202e", "\x9b"}


def test_signed_files_and_trusted_keys(tmp_path: Path) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization as pem

    for name in ("mine", "other"):
        key = ed25519.Ed25519PrivateKey.generate()
        private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pem").write_bytes(private)
        (tmp_path / f"{name}_public.pem").write_bytes(public)
    (tmp_path / "net.py").write_text(MODEL)
    np.save(tmp_path / "x.npy", np.zeros((3, 4), "float32"))
    model = ("net.py:model", "gradient", "--inputs", "float32[4]")
    done(tmp_path, "compile", *model, "-o", "signed.explainer", "--sign", "mine.pem")
    done(tmp_path, "compile", *model, "-o", "plain.explainer")
    wrong = refused(tmp_path, "compile", *model, "-o", "y.explainer", "--sign", "mine_public.pem")
    assert "holds no private key" in wrong
    assert "by " in done(tmp_path, "info", "signed.explainer")
    run = ("x.npy", "--target", "1", "-o", "y.npy", "--overwrite")
    done(tmp_path, "run", "signed.explainer", *run, "--trusted", "other_public.pem", "--trusted", "mine_public.pem")
    for file in ("signed.explainer", "plain.explainer"):
        trusted = ("--trusted", "other_public.pem")
        for command in (("run", file, *run), ("report", file, "x.npy", "--target", "1", "-o", "y.html"),
                        ("bench-call", file), ("serve", file, "--port", "0"),
                        ("evaluate", file, "--inputs", "x.npy", "--metric", "deletion")):  # fmt: skip
            assert "signed" in refused(tmp_path, *command, *trusted)
    serve = ("serve", "net.py:model", "--method", "gradient", "--inputs", "float32[4]", "--trusted", "mine_public.pem")
    assert "no key can have signed it" in refused(tmp_path, *serve)
