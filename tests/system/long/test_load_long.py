"""All of the API's load: `tools/test --long load` runs it."""
from test_api_load import local_guest, running, test_sixty_four_clients_do_no_harm  # noqa: F401
