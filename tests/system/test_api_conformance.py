"""Firecracker's API, walked: every path with every method, in both phases; every field of every body with what is right, at its limits, of each wrong type,
null, missing, unknown. The table is in api_table.py; the count of cases is printed at the end. Under tcg, on this machine."""
import copy
import json
import subprocess

import pytest

import api_table as table
from api_client import Connection, Husk
from api_table import BAD_JSON, ENDPOINTS, INT_NAMES, NOT_AFTER, NOT_BEFORE, POST, PRE
from local_guest import HUSK, image, local_guest, tap  # noqa: F401

WRONG = {"null": None, "boolean": True, "integer": 7, "negative": -7, "floating point": 1.5, "string": "word", "sequence": [], "map": {}}
FITS = {"bool": {"boolean"}, "int": {"integer"}, "str": {"string"}, "enum": set(), "object": {"map"}, "list": {"sequence"}, "map": {"map"}}
METHODS = ("GET", "PUT", "PATCH", "DELETE")


class Client:
    """One connection to a husk; counts what it checks."""
    cases = 0

    def __init__(self, husk, names):
        self.husk, self.names = husk, names
        self.conn = Connection(husk.sock)
        self.wrong = []  # all of them are told at once

    def fill(self, value):
        """Names of the table that stand for files."""
        if isinstance(value, dict):
            return {k: self.fill(v) for k, v in value.items()}
        if isinstance(value, list):
            return [self.fill(v) for v in value]
        return self.names.get(value[1:], value) if isinstance(value, str) and value.startswith("@") else value

    def ask(self, method, path, body=None):
        if body is not None and not isinstance(body, (str, bytes)):
            body = json.dumps(self.fill(body))
        self.conn.request(method, path, body, {"Content-Length": "0"} if body is None and method in ("PUT", "PATCH") else {})
        response = self.conn.getresponse()
        text = response.read()
        assert response.headers["Server"] == "Firecracker API"
        return response.status, json.loads(text) if text else None, response.headers["Deprecation"] == "true"

    def fail(self, *what):
        self.wrong.append(" ".join(map(str, what))[:600])

    def check(self, status, said, method, path, body=None, deprecated=None):
        """The request is answered so; `said` is a part of the fault's text."""
        Client.cases += 1
        got, answer, warned = self.ask(method, path, body)
        where = f"{method} {path} {json.dumps(body) if not isinstance(body, (str, bytes)) else body!r:.300}: {got} {answer}"
        if got != status:
            self.fail(where, "instead of", status)
        elif got == 204 and answer is not None:
            self.fail(where, "is not empty")
        elif got == 400 and (list(answer) != ["fault_message"] or said not in answer["fault_message"]):
            self.fail(where, "does not say", repr(said))
        elif deprecated is not None and warned != deprecated:
            self.fail(where, "has a Deprecation header:", warned)
        return answer

    def taken(self, method, path, body=None, **how):
        return self.check(204, "", method, path, body, **how)

    def refused(self, said, method, path, body=None):
        return self.check(400, said, method, path, body)


@pytest.fixture
def names(tmp_path, tap):  # noqa: F811
    for name in ("disk", "disk2", "pmem"):
        (tmp_path / name).write_bytes(bytes(2 << 20))
    files = {name: str(tmp_path / name) for name in ("disk", "disk2", "pmem", "out", "log", "metrics", "vsock", "nobody")}
    return {"kernel": str(image("vmlinuz-6.12")), "initrd": str(image("initrd-6.12.img")), "tap": tap, **files}


@pytest.fixture
def fresh(tmp_path, local_guest, names):  # noqa: F811
    """Makes clients of a husk that is not started."""
    made = []

    def make(before=()):
        folder = tmp_path / f"husk{len(made)}"
        folder.mkdir()
        made.append(Husk(folder))
        client = Client(made[-1], names)
        for request in before:
            assert client.ask(*request)[0] == 204, request
        return client

    yield make
    for husk in made:
        husk.stop()


@pytest.fixture(scope="module")
def schema(local_guest):  # noqa: F811
    return json.loads(subprocess.run([HUSK, "api", "schema"], capture_output=True, text=True, check=True, timeout=60).stdout)


def well(client):
    assert not client.wrong, f"{len(client.wrong)} wrong:\n" + "\n".join(client.wrong[:40])


# ---- Cases of a field ----

def kind_name(spec, kind):
    return {"negative": "integer"}.get(kind, kind) if spec.kind != "int" or kind != "negative" else None


def wrong_types(spec, needed):
    """(value, what the answer says) for each JSON type that is not the field's."""
    for kind, value in WRONG.items():
        if kind in FITS[spec.kind] or (kind == "null" and not needed):
            continue
        if spec.kind == "int" and kind == "negative":
            yield value, f"invalid value: integer `-7`, expected {INT_NAMES[spec.top]}"
        elif spec.kind == "enum" and kind == "string":
            yield value, "unknown variant `word`, expected "
        else:
            yield value, f"invalid type: {kind_name(spec, kind)}"
    if spec.kind == "enum":
        yield "", "unknown variant ``"
        yield spec.values[0].swapcase(), f"unknown variant `{spec.values[0].swapcase()}`"
    if spec.kind == "int" and spec.top < table.U64:
        yield spec.top + 1, f"invalid value: integer `{spec.top + 1}`, expected {INT_NAMES[spec.top]}"
    if spec.kind == "int":
        yield 2**64, ""


def limits(spec):
    """(value, accepted) at and around the limits of a number."""
    if spec.kind != "int":
        return
    for value in {spec.low, spec.low + 1, *((spec.low - 1,) if spec.low else ())}:
        yield value, value >= spec.low
    if spec.high is not None:
        for value in {spec.high - 1, spec.high, *((spec.high + 1,) if spec.high < spec.top else ())}:
            yield value, value <= spec.high


class Walk:
    """All cases of one method of one path."""

    def __init__(self, client, method, path, body, category=""):
        self.client, self.method, self.path, self.body, self.category = client, method, path, body, category

    def request(self, body):
        return self.method, self.path, body

    def put_into(self, where, value):
        """The sample with the value at that place."""
        at = top = copy.deepcopy(self.body.sample)
        for step, inner in where[:-1]:
            at = at.setdefault(step, copy.deepcopy(inner)) if isinstance(at, dict) else at[step]
        at[where[-1][0]] = value
        return top

    def without(self, where):
        body = self.put_into(where, None)
        at = body
        for step, _ in where[:-1]:
            at = at[step]
        del at[where[-1][0]]
        return body

    def taken(self, where, value):
        self.client.taken(*self.request(self.put_into(where, value)))

    def refused(self, where, value, said):
        self.client.refused(said, *self.request(self.put_into(where, value)))

    def value(self, spec, where, is_id, partial):
        for value, said in wrong_types(spec, spec.required and not partial):
            self.refused(where, value, BAD_JSON + said)
        if is_id:
            return
        for value in (spec.sample, *spec.good, *spec.past, *spec.values):
            if value is not None:
                self.taken(where, value)
        for value, accepted in limits(spec):
            if accepted:
                self.accepted_number(where, value, spec)
            else:
                self.refused(where, value, self.category)
        for value, said in spec.bad:
            self.refused(where, value, said)

    def accepted_number(self, where, value, spec):
        """Within its own limits; another field's may still refuse it (a total that is no multiple of the slot)."""
        Client.cases += 1
        status, answer, _ = self.client.ask(*self.request(self.put_into(where, value)))
        if status != 204 and (status != 400 or answer["fault_message"].startswith(BAD_JSON)):
            self.client.fail(self.method, self.path, where, value, answer)

    def need(self, spec, where, partial):
        key = where[-1][0]
        if spec.lacking:
            self.client.refused(spec.lacking, *self.request(self.without(where)))
            self.refused(where, None, spec.lacking)
        elif spec.required and not partial:
            self.client.refused(f"{BAD_JSON}missing field `{key}`", *self.request(self.without(where)))
        elif not spec.required:
            self.taken(where, None)  # Firecracker refuses null where a field has a default (docs/api.md)

    def field(self, key, spec, at, is_id=False, partial=False):
        where = [*at, (key, {} if spec.kind != "object" else spec.body.sample)]
        self.need(spec, where, partial)
        self.value(spec, where, is_id, partial)
        if spec.deprecated:
            self.client.taken(*self.request(self.put_into(where, spec.sample)), deprecated=True)
        if spec.kind == "object":
            self.fields(spec.body, where)
        elif spec.kind == "list":
            inner = [*at, (key, spec.sample), (0, spec.item.sample)]
            for value, said in wrong_types(spec.item, True):
                self.refused([*at, (key, spec.sample)], [value], BAD_JSON + said)
            if spec.item.kind == "object":
                self.fields(spec.item.body, inner, in_list=True)

    def fields(self, body, at, id_key="", partial=False, in_list=False):
        for key, spec in body.fields.items():
            self.field(key, spec, at, key == id_key, partial)
        where = [*at, ("unheard_of", None)]
        if body.is_open:
            self.taken(where, 1)
        else:
            self.refused(where, 1, f"{BAD_JSON}unknown field `unheard_of`")

    def whole(self, partial):
        for value in (None, True, 7, 1.5, "word", []):
            self.client.refused(BAD_JSON, *self.request(json.dumps(value)))
        for text in ("{", "}", "{]", "nonsense", '{"a":}', '{"a" 1}', "{'a':1}", "\x00", "{}{}", '{"a":1,}', "\ufeff{}"):
            self.client.refused(BAD_JSON, *self.request(text.encode()))
        self.client.refused(BAD_JSON, *self.request(b'{"\xff\xfe":1}'))
        self.client.refused(BAD_JSON, *self.request("[" * 2000 + "]" * 2000))
        self.client.taken(*self.request(self.body.sample), deprecated=self.path == "/mmds/config")
        for change in self.body.taken:
            self.client.taken(*self.request({**self.body.sample, **change}))
        for change, said in self.body.refused:
            self.client.refused(said, *self.request({k: v for k, v in {**self.body.sample, **change}.items() if v is not None}))
        if partial:
            self.client.refused("Empty PATCH request", *self.request({}))

    def all(self, id_key="", partial=False):
        self.whole(partial)
        self.fields(self.body, [], id_key, partial)
        self.client.taken(*self.request(self.body.sample))


def category(path):
    return next((text for start, text in table.CATEGORIES.items() if path.startswith(start)), "")


def walked(phase):
    return [(e, m) for e in ENDPOINTS for m, (when, body) in e.methods.items() if when == phase and body and "snapshot" not in e.path]


def name(value):
    return value.path[1:].replace("/", "-") if isinstance(value, table.Endpoint) else value


# ---- Before the start ----

@pytest.mark.parametrize("endpoint, method", [w for w in walked(PRE) if w[0].path != "/metrics"], ids=name)
def test_every_field_before_the_start(fresh, endpoint, method):
    body = endpoint.methods[method][1]
    walk = Walk(fresh(endpoint.before), method, endpoint.path, body, category(endpoint.path))
    walk.all(endpoint.id_key, partial=method == "PATCH")
    well(walk.client)


def test_every_field_of_metrics(fresh, names, tmp_path):
    """Each of them is accepted once, by a process of its own."""
    body = table.METRICS
    refusals = Walk(fresh(), "PUT", "/metrics", body, "Metrics")
    for key, spec in body.fields.items():
        for value, said in wrong_types(spec, spec.required):
            refusals.refused([(key, None)], value, BAD_JSON + said)
        for value, said in spec.bad:
            refusals.refused([(key, None)], value, said)
    refusals.client.refused(BAD_JSON + "missing field `metrics_path`", "PUT", "/metrics", {})
    refusals.client.taken("PUT", "/metrics", body.sample)
    refusals.client.refused("Reinitialization of metrics not allowed.", "PUT", "/metrics", body.sample)
    well(refusals.client)
    for more in ({"emit_id": True}, {"emit_id": None}, {"properties": {"a": "b"}}, {"properties": None}, {"unheard_of": 1}):
        client = fresh()
        client.taken("PUT", "/metrics", {**body.sample, **more})
        well(client)


class Loading(Client):
    """What is right in a request gets as far as the files, which are not there."""

    def taken(self, method, path, body=None, **how):
        return self.check(400, "Load snapshot error: ", method, path, body, **how)


def test_every_field_of_a_load(fresh, names):
    client = Loading(fresh().husk, names)
    walk = Walk(client, "PUT", "/snapshot/load", table.LOAD)
    walk.all()
    only = {"snapshot_path": "@nobody", "mem_file_path": "@nobody"}
    client.taken("PUT", "/snapshot/load", only, deprecated=True)
    client.refused(BAD_JSON + "too many fields: " + table.ONE_MEMORY, "PUT", "/snapshot/load", {**table.LOAD.sample, **only})
    for value, said in wrong_types(table.text(), False):
        client.refused(BAD_JSON + said, "PUT", "/snapshot/load", {**table.LOAD.sample, "mem_file_path": value})
    well(client)


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.get], ids=name)
def test_what_get_shows_is_what_was_put(fresh, endpoint):
    client = fresh()
    if endpoint.path == "/machine-config":
        defaults = {k: f.default for k, f in table.MACHINE.fields.items() if k != "cpu_template"}
        assert client.check(200, "", "GET", endpoint.path) == defaults
    else:
        client.refused("", "GET", endpoint.path)
    client.taken("PUT", endpoint.path, endpoint.methods["PUT"][1].sample)
    assert client.check(200, "", "GET", endpoint.path) == endpoint.get
    if endpoint.path == "/machine-config":
        client.taken("PATCH", endpoint.path, {"cpu_template": "None"}, deprecated=True)
        assert client.check(200, "", "GET", endpoint.path) == endpoint.get  # no template is not shown
    well(client)


CONFIG_KEYS = {"balloon", "drives", "boot-source", "cpu-config", "logger", "machine-config", "metrics", "mmds-config", "network-interfaces", "vsock", "entropy",
               "pmem", "memory-hotplug"}


def test_the_configuration_has_all_keys_before_anything_is_set(fresh):
    client = fresh()
    shown = client.check(200, "", "GET", "/vm/config")
    machine = shown.pop("machine-config")
    assert machine["vcpu_count"] == 1 and machine["mem_size_mib"] == 128
    assert shown == {k: [] if k in ("drives", "network-interfaces", "pmem") else None for k in CONFIG_KEYS - {"machine-config"}}
    assert client.check(200, "", "GET", "/")["state"] == "Not started"
    assert client.check(200, "", "GET", "/mmds") == {}
    client.refused("The MMDS data store is not initialized.", "PATCH", "/mmds", {"a": 1})
    for value in (None, 1, "x", [], True, 1.5):
        client.refused("", "PUT", "/mmds", json.dumps(value))
    client.taken("PUT", "/mmds", {"a": {"b": 1, "c": [1]}, "d": None})
    client.taken("PATCH", "/mmds", {"a": {"b": None, "e": 2}})
    assert client.check(200, "", "GET", "/mmds") == {"a": {"c": [1], "e": 2}, "d": None}
    well(client)


def exactly(client, text, method, path, body=None):
    answer = client.refused(text, method, path, body)
    if answer != {"fault_message": text}:
        client.fail(method, path, answer, "is not exactly", text)


def sample_of(endpoint, method):
    body = endpoint.methods[method][1]
    return None if method in ("GET", "DELETE") or endpoint.path.endswith("/stop") else body.sample if body else {"a": 1}


def test_what_is_for_afterwards_is_refused_before_the_start(fresh):
    client = fresh()
    for endpoint in ENDPOINTS:
        for method, (phase, _) in endpoint.methods.items():
            if phase == POST:
                exactly(client, NOT_BEFORE, method, endpoint.path, sample_of(endpoint, method))
    exactly(client, NOT_BEFORE, "PUT", "/actions", {"action_type": "SendCtrlAltDel"})
    client.refused("Start microvm error", "PUT", "/actions", table.START.sample)  # there is no kernel
    well(client)


# What husk has beyond Firecracker.
OWN = {("GET", "/drives/x1")}


def test_each_method_that_a_path_does_not_have(fresh):
    client = fresh()
    for endpoint in ENDPOINTS:
        for method in set(METHODS) - set(endpoint.methods):
            if (method, endpoint.path) not in OWN:
                body = {} if method in ("PUT", "PATCH") else None
                exactly(client, f"Invalid request method and/or path: {method} {endpoint.path[1:]}.", method, endpoint.path, body)
    well(client)


def test_paths_that_are_not_there(fresh):
    client = fresh()
    for path in ("/nowhere", "/drive", "/Drives/x1", "/drives/x1/y", "/machine_config", "/balloon/nothing", "/balloon/hinting", "/hotplug", "/vm/conf",
                 "/snapshot", "/mmds/nothing", "/actions%20", "/..", "/drives/../vm", "/vm?x=1"):
        for method in METHODS:
            said = f"Invalid request method and/or path: {method} {path[1:]}."
            client.refused(said, method, path, {} if method in ("PUT", "PATCH") else None)
    well(client)


def test_bodies_that_are_missing_or_too_much(fresh):
    client = fresh()
    for endpoint in ENDPOINTS:
        for method in endpoint.methods:
            if method == "GET":
                exactly(client, "GET request cannot have a body.", method, endpoint.path, {})
            elif method == "DELETE":
                client.refused("", method, endpoint.path, {"a": 1})
            elif "hinting" not in endpoint.path:
                exactly(client, f"Empty {method} request.", method, endpoint.path)
    well(client)


def test_names_in_paths(fresh):
    client = fresh()
    for endpoint in [e for e in ENDPOINTS if e.id_key]:
        where, body = endpoint.path[:-3], endpoint.methods["PUT"][1].sample
        for method in ("PUT", "PATCH", "DELETE"):
            given = None if method == "DELETE" else body
            for path in (where, where + "/"):
                exactly(client, "The ID cannot be empty.", method, path, given)
            for bad in ("a-b", "a.b", "a b".replace(" ", "%20"), "%41", "a+b", "a@b", "a" * 10 + "!"):
                exactly(client, "API Resource IDs can only contain alphanumeric characters and underscores.", method, f"{where}/{bad}", given)
        client.refused("does not match the id from the body", "PUT", where + "/x2", body)
        client.refused("does not match the id from the body", "PATCH", where + "/x2", {endpoint.id_key: "x1"})
        client.taken("PUT", where + "/A_9", {**body, endpoint.id_key: "A_9"})
        client.taken("PUT", where + "/A_9", {**body, endpoint.id_key: "A_9"})
    well(client)


def test_devices_that_exclude_each_other(fresh):
    client = fresh()
    client.taken("PUT", "/drives/x1", {**table.DRIVE.sample, "is_root_device": True})
    client.taken("PUT", "/drives/x1", {**table.DRIVE.sample, "is_root_device": True})
    client.refused("A root block device already exists!", "PUT", "/drives/x2", {**table.DRIVE.sample, "drive_id": "x2", "is_root_device": True})
    client.refused("", "PUT", "/pmem/x1", {**table.PMEM.sample, "root_device": True})
    client.taken("PUT", "/network-interfaces/x1", {**table.INTERFACE.sample, "guest_mac": "06:00:AC:10:00:02"})
    client.refused("The MAC address is already in use", "PUT", "/network-interfaces/x2",
                   {"iface_id": "x2", "host_dev_name": "husknone", "guest_mac": "06:00:ac:10:00:02"})
    client.taken("PUT", "/balloon", {**table.BALLOON.sample, "amount_mib": 100})
    client.refused("", "PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 99})
    client.taken("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 100})
    well(client)


# ---- After the start ----

SETUP = [("/machine-config", {"vcpu_count": 1, "mem_size_mib": 256}), ("/logger", {"log_path": "@log", "level": "Debug"}), ("/metrics", table.METRICS.sample),
         ("/drives/x1", table.DRIVE.sample), ("/network-interfaces/x1", table.INTERFACE.sample), ("/pmem/x1", {**table.PMEM.sample, "path_on_host": "@pmem"}),
         ("/vsock", table.VSOCK.sample), ("/entropy", {}), ("/hotplug/memory", table.HOTPLUG.sample), ("/mmds/config", table.MMDS_CONFIG.sample),
         ("/balloon", {"amount_mib": 0, "deflate_on_oom": True, "stats_polling_interval_s": 1, "free_page_hinting": True, "free_page_reporting": True})]
# Ctrl-Alt-Del is for the first process, which does not care; the beats tell that the guest lives on.
SCRIPT = "echo 0 >/proc/sys/kernel/ctrl-alt-del; echo up; while true; do sleep 0.2; echo beat; done"


@pytest.fixture
def started(fresh, names):
    client = fresh()
    for path, body in SETUP:
        assert client.ask("PUT", path, body)[0] == 204, path
    assert client.ask("PUT", "/boot-source", Husk.boot_source(SCRIPT))[0] == 204
    client.taken("PUT", "/actions", table.START.sample)
    well(client)
    client.husk.wait_console("up\n")
    yield client
    beats = client.husk.console().count("beat")
    client.husk.wait_for(lambda: client.husk.console().count("beat") > beats, "beat of the guest", 30)


def walk_running(client):
    for endpoint, method in walked(POST):
        # What would take the guest's memory away does so while it stands still.
        calm = endpoint.path in ("/balloon", "/hotplug/memory")
        client.taken("PATCH", "/vm", {"state": "Paused" if calm else "Resumed"})
        Walk(client, method, endpoint.path, endpoint.methods[method][1], category(endpoint.path)).all(endpoint.id_key)
    client.taken("PATCH", "/vm", {"state": "Resumed"})


def check_gets(client):
    stats = client.check(200, "", "GET", "/balloon/statistics")
    assert {"target_pages", "actual_pages", "target_mib", "actual_mib"} <= set(stats)
    assert set(client.check(200, "", "GET", "/balloon/hinting/status")) == {"host_cmd", "guest_cmd"}
    memory = client.check(200, "", "GET", "/hotplug/memory")
    assert memory == {"total_size_mib": 1024, "slot_size_mib": 128, "block_size_mib": 2, "plugged_size_mib": memory["plugged_size_mib"],
                      "requested_size_mib": 0}
    assert client.check(200, "", "GET", "/balloon")["amount_mib"] == 8
    shown = client.check(200, "", "GET", "/vm/config")
    assert set(shown) == CONFIG_KEYS and shown["cpu-config"] is None and shown["logger"] is None and shown["metrics"] is None
    assert set(shown["drives"][0]) == {"drive_id", "partuuid", "is_root_device", "cache_type", "is_read_only", "path_on_host", "rate_limiter", "io_engine",
                                       "socket"}
    assert shown["vsock"] == client.fill(table.VSOCK.sample)
    assert set(shown["network-interfaces"][0]) == {"iface_id", "host_dev_name", "guest_mac", "mtu", "rx_rate_limiter", "tx_rate_limiter"}


def check_refusals(client):
    """What is for before the start, what is not there, what is no device of this VM: none of it does anything."""
    for endpoint in ENDPOINTS:
        for method, (phase, _) in endpoint.methods.items():
            if phase == PRE:
                exactly(client, NOT_AFTER, method, endpoint.path, sample_of(endpoint, method))
                client.refused(BAD_JSON, method, endpoint.path, b"{")
        if endpoint.id_key:
            client.refused("PCI is not enabled", "DELETE", endpoint.path)
            client.refused("Device not found", "PATCH", endpoint.path[:-1] + "2", {endpoint.id_key: "x2"})
    exactly(client, NOT_AFTER, "PUT", "/actions", table.START.sample)
    create = Walk(client, "PUT", "/snapshot/create", table.SNAPSHOT)
    for key, spec in table.SNAPSHOT.fields.items():
        for value, said in wrong_types(spec, spec.required):
            create.refused([(key, None)], value, BAD_JSON + said)


def test_a_running_vm(started):
    walk_running(started)
    for state in ("Running", "Paused"):
        started.taken("PATCH", "/vm", {"state": {"Running": "Resumed"}.get(state, state)})
        assert started.check(200, "", "GET", "/")["state"] == state
        check_gets(started)
        check_refusals(started)
        for endpoint, method in walked(POST):
            if endpoint.path != "/vm":
                started.taken(method, endpoint.path, endpoint.methods[method][1].sample)
        started.taken("PATCH", "/balloon/hinting/stop")
        started.taken("PATCH", "/balloon/hinting/start")
        started.taken("PUT", "/mmds", {"a": 1})
        started.taken("PATCH", "/mmds", {"b": 2})
    started.taken("PATCH", "/vm", {"state": "Resumed"})
    well(started)


def test_a_vm_without_those_devices(fresh):
    client = fresh()
    assert client.ask("PUT", "/boot-source", Husk.boot_source("sleep 1000"))[0] == 204
    client.taken("PUT", "/actions", table.START.sample)
    for endpoint in ENDPOINTS:
        for method, (phase, _) in endpoint.methods.items():
            if endpoint.path.startswith(("/balloon", "/hotplug", "/drives", "/network", "/pmem")) and phase != PRE:
                client.refused("", method, endpoint.path, sample_of(endpoint, method))
    client.refused("", "PUT", "/mmds", {"a": 1})  # no interface has the service
    well(client)


def test_a_balloon_takes_no_more_than_the_guest_has(fresh):
    client = fresh((("PUT", "/balloon", table.BALLOON.sample), ("PUT", "/boot-source", Husk.boot_source("echo up; sleep 1000")),
                    ("PUT", "/actions", table.START.sample)))
    client.husk.wait_console("up\n")
    client.taken("PATCH", "/vm", {"state": "Paused"})
    for amount in (127, 128):
        client.taken("PATCH", "/balloon", {"amount_mib": amount})
    exactly(client, "Balloon config error: Amount of pages requested is too large.", "PATCH", "/balloon", {"amount_mib": 129})
    for path in ("/balloon/statistics", "/balloon/hinting/status"):
        client.refused("Balloon config error", "GET", path)  # not wanted before the start
    client.refused("Balloon config error", "PATCH", "/balloon/statistics", {"stats_polling_interval_s": 1})
    for path in ("/balloon/hinting/start", "/balloon/hinting/stop"):
        client.refused("Balloon config error", "PATCH", path)
    client.taken("PATCH", "/balloon", {"amount_mib": 0})
    well(client)


# ---- The description ----

def required_keys(body):
    return {k for k, f in body.fields.items() if f.required}


@pytest.mark.parametrize("endpoint, method", walked(PRE) + walked(POST), ids=name)
def test_the_description_has_each_field(schema, endpoint, method):
    path = endpoint.path.replace("x1", "{%s}" % endpoint.id_key)
    body = endpoint.methods[method][1]
    described = schema["paths"][path][method.lower()]["requestBody"]["content"]["application/json"]["schema"]
    missing = set(body.fields) - set(described["properties"]) - {endpoint.id_key}
    Client.cases += len(body.fields)
    assert not missing
    if method == "PUT":
        assert set(described["required"]) == required_keys(body)
        assert described["additionalProperties"] == body.is_open
    for key, spec in body.fields.items():
        kind = described["properties"].get(key, {}).get("type", [])
        word = {"bool": "boolean", "int": "integer", "str": "string", "enum": "string", "object": "object", "list": "array", "map": "object"}[spec.kind]
        assert key == endpoint.id_key or "enum" in described["properties"][key] or word in kind, (key, kind)


def test_the_count_of_cases(capsys):
    """Last, for its name says what the others did."""
    with capsys.disabled():
        print(f"\nconformance: {Client.cases} cases")
    assert Client.cases > 0
