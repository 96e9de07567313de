"""Migration at length; `tools/test --long migrate` runs it: fifty moves in each mode between two namespaces, 1 GiB, 50 MiB/s written."""
from local_guest import local_guest  # noqa: F401
from migrate_vm import movers  # noqa: F401
from test_migrate_kvm import common, test_a_guest_moves_from_kvm_to_tcg_and_back, test_a_guest_moves_under_kvm  # noqa: F401
from test_migrate_net import hosts, test_nothing_is_lost_between_two_hosts  # noqa: F401
