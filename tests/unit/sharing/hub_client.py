"""What a user does with a hub, as a process of its own: huggingface_hub reads its environment when it is imported.

Arguments: a model folder and a picture. Prints one JSON object.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import Any

from transformers import AutoConfig, AutoModel, AutoProcessor

import soho
from soho.cli import main
from soho.pipelines import SohoPipeline


def command(*arguments: str) -> list[Any]:
    """Run `soho`; returns exit code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["soho", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return [code, out.getvalue(), err.getvalue()]


folder, picture = sys.argv[1:3]
question = "what color is the ball?"
found: dict[str, Any] = {}
token = os.environ.pop("HF_TOKEN")
found["no_token"] = command("push", folder, "somebody/vqa")
os.environ["HF_TOKEN"] = "hf_wrong"
found["wrong_token"] = command("push", folder, "somebody/vqa")
os.environ["HF_TOKEN"] = token
found["forbidden"] = command("push", folder, "others/vqa")
found["push"] = command("push", folder, "somebody/vqa", "--private", "--message", "First")
found["push_again"] = command("push", folder, "somebody/vqa")

local = SohoPipeline.from_pretrained(folder)
remote = SohoPipeline.from_pretrained("somebody/vqa")
found["answers"] = [[[one.text, one.probability] for one in by.answer(picture, question)] for by in (local, remote)]
found["predict"] = command("predict", "somebody/vqa", picture, question, "--json")
found["absent"] = command("predict", "somebody/nothing", picture, question)

# The transformers convention, and the Auto classes.
local.model.push_to_hub("somebody/by-convention")
local.processor.push_to_hub("somebody/by-convention")
convention = soho.load("somebody/by-convention", device="cpu")
found["convention"] = [[one.text, one.probability] for one in convention.answer(picture, question)]
found["auto"] = [
    type(AutoConfig.from_pretrained("somebody/vqa")).__name__,
    type(AutoProcessor.from_pretrained("somebody/vqa")).__name__,
    type(AutoModel.from_pretrained("somebody/vqa")).__name__,
]
print(json.dumps(found))
