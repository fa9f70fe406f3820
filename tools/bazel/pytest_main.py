"""Runs pytest on the files named on the command line: the main of every py_test."""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-m", "not slow", *sys.argv[1:]]))
