"""Makes nested.py importable and its fixtures known to the tests of this directory."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from pytest_nested import nested, nested_session  # noqa: E402,F401
