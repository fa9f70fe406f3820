"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared models and data; a test that asks for it skips where it is absent."""
    folder = Path(os.environ.get("TF_REQUANT_SHARED", ROOT.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"the shared models are not at {folder}; set TF_REQUANT_SHARED to where they are")
    return folder
