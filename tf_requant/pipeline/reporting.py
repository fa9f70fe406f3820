"""A validation written down: report.json, the page, JUnit, overlays for Model Explorer, and the outputs it judged."""

import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tf_requant.errors import UsageError
from tf_requant.io.tflite_writer import save
from tf_requant.report.explorer import overlays
from tf_requant.report.junit import junit
from tf_requant.report.page import render

if TYPE_CHECKING:
    from tf_requant.pipeline.check import Check

EXPLORER = "model_explorer"


def write(check: "Check", folder: Path) -> Path:
    """Writes every form of a validation into a folder, each file at once; all are made from the same document.

    Raises:
        UsageError: the folder cannot be made.
    """
    document = check.to_dict()
    files = {"report.json": json.dumps(document, indent=1), "report.html": render(document), "junit.xml": junit(document)}
    if document["layers"]:
        files |= {f"{EXPLORER}/{name}": json.dumps(data) for name, data in overlays(document).items()}
    make(folder / EXPLORER if document["layers"] else folder)
    for name, text in files.items():
        save(folder / name, text.encode())
    if check.outputs:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **check.outputs)
        save(folder / "outputs.npz", buffer.getvalue())
    return folder


def check_folder(folder: Path) -> None:
    """Refuses a folder that could not be made, without making it: work that fails leaves nothing behind.

    Raises:
        UsageError: a file is in the way, or nothing can be written there.
    """
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    if not there.is_dir():
        raise UsageError(f"--report={folder}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise UsageError(f"--report={folder}: {there} cannot be written")


def make(folder: Path) -> None:
    """Makes a folder for a report.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--report={folder}: cannot be made ({error.strerror})") from error
