"""pytest fixtures: `nested`, the session's one nested host, started when first wanted and again when it has died.

Why a file of its own: tests elsewhere (tests/system) import it as well; in their conftest.py:
    sys.path.insert(0, ".../tests/nested"); from pytest_nested import nested, nested_session
HUSK names the binary to test (default build/husk); without guest images or QEMU the tests are skipped, in CI (CI=true) they fail.
"""
import os

import pytest

from nested import NestedError, NestedHost


@pytest.fixture(scope="session")
def nested_session():
    try:
        host = NestedHost(husk=os.environ.get("HUSK"), peer=bool(os.environ.get("HUSK_NESTED_PEER")),
                          smp=int(os.environ.get("HUSK_NESTED_SMP", "1")), log=os.environ.get("HUSK_NESTED_LOG"))
    except NestedError as e:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(e))
    yield host
    host.stop()


@pytest.fixture
def nested(nested_session):
    if not nested_session.alive():
        nested_session.start()
    yield nested_session
    if not nested_session.alive():
        pytest.fail("this test ended the nested host\n" + nested_session.why_dead(), pytrace=False)
