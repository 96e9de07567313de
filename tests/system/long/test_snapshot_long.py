"""Snapshots at length; `tools/test --long snapshot` runs it: a hundred stops of a busy guest, crashes at fifty moments and at each file operation."""
from local_guest import local_guest, tap  # noqa: F401
from test_snapshot_crash import *  # noqa: F401,F403
from test_snapshot_crash import machines, start  # noqa: F401
from test_snapshot_journey import test_everything_goes_on_through_stop_after_stop  # noqa: F401
from test_snapshot_kvm import *  # noqa: F401,F403
