"""Tests that take minutes to hours: collected only when `tools/test --long WHAT` asks for them."""
import os

if not os.environ.get("HUSK_LONG"):
    collect_ignore_glob = ["test_*"]
