"""Runs a bash block of a page in a real bash, while `soho` itself runs in the test process.

A new process for each `soho` would import torch each time, some seconds that a page with ten commands does not have.
So the block finds a `soho` on its PATH that hands its arguments over a socket and prints what comes back. Pipes,
redirections, here-documents and variables are those of bash.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from soho.cli import main
from soho.errors import SohoError
from soho.training.recipe import load_recipe
from tests.support import ROOT
from tests.tiny_recipes import MODEL

LIMIT = 120  # seconds a block may take

CLIENT = """#!{python} -IS
import json, os, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
talk = link.makefile("rw", encoding="utf-8")
talk.write(json.dumps([{name!r}, os.getcwd(), os.environ.get("PYTHONPATH", ""), sys.argv[1:]]) + "\\n")
talk.flush()
code, out, err = json.loads(talk.readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""

# What makes training of a shipped recipe short. The first part gives way to what the page itself says.
FEW = (
    "data.workers=0",
    "training.batch_size=4",
    "training.log_every=1",
    "training.precision=fp32",
    "evaluation.precision=fp32",
    "data.shorter_edge=64",
    "data.longer_edge=128",
)
SHORT = ("training.epochs=1", "training.max_steps=2")
# What stands in for weights of the hub, as the header of recipes/own/captions.yaml says.
FROM_NOTHING = (
    *(f"model.{key}=null" for key in ("text", "text_layers", "backbone")),
    f"model.backbone_config={json.dumps(MODEL['backbone_config'])}",
    "model.vocabulary_size=300",
    *(f"model.config.{key}={value}" for key, value in MODEL["config"].items() if key != "dictionary_size"),
    "model.config.max_position_embeddings=32",
    "training.freeze_backbone_epochs=0",
)


def shortened(arguments: list[str]) -> list[str]:
    """Return the arguments of `soho` such that training and drawing take seconds; other commands as they are."""
    if arguments[:2] == ["data", "miniature"]:
        return [*arguments, "--train", "12", "--validation", "4", "--test", "4"]
    if arguments[:1] not in (["pretrain"], ["finetune"], ["evaluate"]) or len(arguments) < 2:
        return arguments
    command, recipe, *rest = arguments
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    try:
        model = load_recipe(Path(recipe), overrides).model
    except SohoError:
        return arguments  # let the command itself say what is wrong
    hub = any(name and not Path(name).exists() for name in (model.text, model.backbone))
    start = FROM_NOTHING if hub and not model.start else ()
    # `evaluate` too: with evaluation.baselines it trains. And fp32: oneDNN's bf16 convolutions with the few channels of
    # test models corrupt memory (seen with torch 2.13).
    return [command, recipe, *FEW, *rest, *start, *SHORT]


def call_soho(arguments: list[str]) -> int:
    """Run the command in this process."""
    with mock.patch.object(sys, "argv", ["soho", *shortened(arguments)]):
        try:
            main()
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0


def call_pip(arguments: list[str]) -> int:
    """Install nothing, but refuse extras that this project does not have, and what only a network could bring."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for word in arguments[1:]:
        known = re.fullmatch(r"(?:soho-vlp|\.)(?:\[([\w,]+)\])?", word)
        extras = known[1].split(",") if known and known[1] else []
        unknown = [extra for extra in extras if not re.search(rf"^{extra} = \[", project, re.MULTILINE)]
        if word != "-e" and (not known or unknown):
            print(f"pip: {word} is not this project with an extra of pyproject.toml; mark the block: network")
            return 1
    return 0


def refuse(arguments: list[str]) -> int:
    """Say that a program has no place in a block that is run."""
    print("this program is not run by the tests; mark the block with a reason")
    return 1


PROGRAMS = {"soho": call_soho, "pip": call_pip, "make": refuse, "torchrun": refuse, "accelerate": refuse}


@contextlib.contextmanager
def in_folder(folder: str | Path) -> Iterator[None]:
    """Change the working folder for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Shell:
    """A bash with its own working folder, whose `soho` is that of this process.

    Args:
        folder: the working folder, also HOME.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rooms = contextlib.ExitStack()

    def __enter__(self) -> Shell:
        programs = Path(self.rooms.enter_context(tempfile.TemporaryDirectory()))
        self.server = self.rooms.enter_context(socket.socket(socket.AF_UNIX))
        self.server.bind(str(programs / "link"))
        self.server.listen()
        self.server.settimeout(0.02)
        texts = {
            name: CLIENT.format(python=sys.executable, address=str(programs / "link"), name=name) for name in PROGRAMS
        }
        texts["python"] = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
        for name, text in texts.items():
            (programs / name).write_text(text, encoding="utf-8")
            (programs / name).chmod(0o755)
        paths = [str(programs), os.environ["PATH"]]
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join(paths),
            "HOME": str(self.folder),
            "COLUMNS": "200",
            "PYTHONPATH": str(ROOT / "src"),
        }
        return self

    def __exit__(self, *error: object) -> None:
        self.rooms.close()

    def run(self, code: str, place: str) -> str:
        """Run a block; returns what it printed.

        Raises:
            AssertionError: a command of it failed, or it took too long.
        """
        with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
            block = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", code],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
            end = time.monotonic() + LIMIT
            try:
                while block.poll() is None:
                    assert time.monotonic() < end, f"{place} takes more than {LIMIT} s; make it shorter or mark it"
                    with contextlib.suppress(TimeoutError):
                        link, _ = self.server.accept()
                        link.setblocking(True)
                        with link, link.makefile("rw", encoding="utf-8") as talk:
                            talk.write(json.dumps(self.answer(*json.loads(talk.readline()))) + "\n")
                            talk.flush()
            finally:
                block.kill()
                block.wait()
            printed.seek(0)
            text = printed.read()
        assert block.returncode == 0, f"{place} ended with {block.returncode}:\n{code}\n{text}"
        return text

    def answer(self, name: str, folder: str, python_path: str, arguments: list[str]) -> list[Any]:
        """Run a program of this process for the block: exit code, stdout, stderr."""
        out, err = io.StringIO(), io.StringIO()
        paths = [str(Path(folder, path)) for path in python_path.split(os.pathsep) if path]
        with (
            in_folder(folder),
            mock.patch.object(sys, "path", [*paths, *sys.path]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                code = PROGRAMS[name](arguments)
            except Exception as error:  # a traceback is an answer too, or the block would wait for ever
                code = 1
                err.write(f"{type(error).__name__}: {error}\n")
        return [code, out.getvalue(), err.getvalue()]
