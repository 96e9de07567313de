"""Firecracker's API as a table, in the words of this test: which paths and methods there are, when they may be used, what their bodies hold.

A body is a Body of fields; a field a Field of kind, need, default, limits and sample values. "@name" in a sample stands for a file or name that the test
makes. test_api_conformance.py makes the cases of it.
"""
from dataclasses import dataclass, field
from typing import Any

U8, U16, U32, U64 = 2**8 - 1, 2**16 - 1, 2**32 - 1, 2**64 - 1
INT_NAMES = {U8: "u8", U16: "u16", U32: "u32", U64: "u64"}
NOT_BEFORE = "The requested operation is not supported before starting the microVM."
NOT_AFTER = "The requested operation is not supported after starting the microVM."
BAD_JSON = "An error occurred when deserializing the json body of a request: "


@dataclass
class Field:
    kind: str                       # bool, int, str, enum, object, list, map
    required: bool = False
    default: Any = None             # what GET shows when it was left out
    good: tuple = ()                # accepted in the place of the sample value
    bad: tuple = ()                 # (value, part of the message) refused
    top: int = U64                  # int: the largest of its type
    low: int = 0                    # int: limits of its value; a number beyond is refused
    high: int | None = None
    past: tuple = ()                # int: beyond Firecracker's limit, and taken by husk (docs/api.md)
    values: tuple = ()              # enum
    body: Any = None                # object, list of objects
    item: Any = None                # list: Field of an item
    deprecated: bool = False
    lacking: str = ""               # what is said when it is missing or null, where another field could stand for it
    sample: Any = None


@dataclass
class Body:
    fields: dict
    sample: dict                    # the least that is accepted
    is_open: bool = False           # unknown fields are ignored
    refused: tuple = ()             # (changes of the sample, part of the message): fields that do not go together
    taken: tuple = ()               # changes of the sample that are accepted


@dataclass
class Endpoint:
    path: str
    methods: dict                   # method -> (phase, Body or None)
    id_key: str = ""
    before: tuple = ()              # (method, path, body): what has to be there first
    get: dict = field(default_factory=dict)  # method GET: what it shows after the sample was PUT


def integer(required=False, top=U64, low=0, high=None, **more):
    return Field("int", required, top=top, low=low, high=high, sample=more.pop("sample", low), **more)


def text(required=False, sample="x", **more):
    return Field("str", required, sample=sample, **more)


def flag(required=False, default=False, **more):
    return Field("bool", required, default=default, sample=False, **more)


def choice(*values, required=False, default=None, **more):
    return Field("enum", required, default=default, values=values, sample=values[0], **more)


def obj(body, required=False):
    return Field("object", required, body=body, sample=body.sample)


BUCKET = Body({
    "size": integer(True, sample=1000, good=(0, U64)),
    "refill_time": integer(True, sample=100, good=(0, 1, U32)),
    "one_time_burst": integer(good=(1, U64)),
}, {"size": 1000, "refill_time": 100}, is_open=True)

LIMITER = Body({"bandwidth": obj(BUCKET), "ops": obj(BUCKET)}, {},
               taken=({"bandwidth": {"size": 0, "refill_time": 0}}, {"ops": {"size": 1, "refill_time": 1}, "bandwidth": {"size": 1, "refill_time": 1}}))

TEMPLATES = ("None", "C3", "T2", "T2S", "T2CL", "T2A", "V1N1")

MACHINE = Body({
    "vcpu_count": integer(True, U8, 1, 64, default=1, sample=2, past=(33, 64)),
    "mem_size_mib": integer(True, U32, 1, default=128, sample=256, good=(3, 4096, 65536)),
    "smt": flag(good=(True,)),
    "track_dirty_pages": flag(good=(True,)),
    "huge_pages": choice("None", "Transparent", "2M", default="None", bad=(("1G", "unknown variant `1G`"),)),
    "cpu_template": Field("enum", values=TEMPLATES[:-1], sample="None", deprecated=True, bad=(("T3", "unknown variant `T3`"), ("V1N1", "V1N1"))),
}, {"vcpu_count": 2, "mem_size_mib": 256},
    refused=(({"vcpu_count": 3, "smt": True}, "Machine config error"), ({"mem_size_mib": 255, "huge_pages": "2M"}, "Machine config error"),
             ({"mem_size_mib": 255, "huge_pages": "Transparent"}, "Machine config error")),
    taken=({"vcpu_count": 1, "smt": True}, {"vcpu_count": 32, "smt": True}, {"mem_size_mib": 254, "huge_pages": "2M"}, {"mem_size_mib": 255}))

# PATCH takes a part; each request here sets all, so that none depends on the one before.
MACHINE_PATCH = Body(MACHINE.fields, {"vcpu_count": 2, "mem_size_mib": 256, "smt": False, "huge_pages": "None"}, refused=MACHINE.refused, taken=MACHINE.taken)

BOOT = Body({
    "kernel_image_path": text(True, "@kernel", bad=(("/nowhere", "(os error 2)"),)),
    "initrd_path": text(sample="@initrd", bad=(("/nowhere", "(os error 2)"),)),
    "boot_args": text(sample="reboot=k panic=1", good=("", "a" * 2047), bad=(("a" * 2048, "2047"),)),
}, {"kernel_image_path": "@kernel"})

DRIVE = Body({
    "drive_id": text(True, "x1"),
    "is_root_device": flag(True, good=(True,)),
    "path_on_host": text(sample="@disk", lacking="path_on_host", good=("@disk2",), bad=(("/nowhere", "(os error 2)"),)),
    "is_read_only": flag(good=(True,)),
    "partuuid": text(sample="0eaa91a0-01"),
    "cache_type": choice("Unsafe", "Writeback", default="Unsafe"),
    "io_engine": choice("Sync", "Async", default="Sync"),
    "rate_limiter": obj(LIMITER),
    "socket": Field("str"),
}, {"drive_id": "x1", "is_root_device": False, "path_on_host": "@disk", "is_read_only": False},
    refused=(({"path_on_host": None}, "Drive config error"), ({"socket": "@nobody"}, "Drive config error"),
             ({"socket": "@nobody", "path_on_host": None, "is_read_only": True}, "Drive config error"),
             ({"socket": "@nobody", "path_on_host": None, "is_read_only": None}, "(os error "),),
    taken=({"is_root_device": True, "partuuid": "0eaa91a0-01"},))

INTERFACE = Body({
    "iface_id": text(True, "x1"),
    "host_dev_name": text(sample="@tap", lacking="host_dev_name", bad=(("/", ""), ("a" * 16, ""))),
    "guest_mac": text(sample="06:00:AC:10:00:02", good=("06:00:ac:10:00:03",),
                      bad=(("06:00:AC:10:00", ""), ("06:00:AC:10:00:02:03", ""), ("06-00-AC-10-00-02", ""), ("06:00:AC:10:00:0g", ""), ("", ""))),
    "mtu": integer(False, U16, 68, 65535, sample=1500),
    "rx_rate_limiter": obj(LIMITER),
    "tx_rate_limiter": obj(LIMITER),
}, {"iface_id": "x1", "host_dev_name": "@tap"})

PMEM = Body({
    "id": text(True, "x1"),
    "path_on_host": text(True, "@disk", bad=(("/nowhere", "(os error 2)"),)),
    "root_device": flag(good=(True,)),
    "read_only": flag(good=(True,)),
    "rate_limiter": obj(LIMITER),
}, {"id": "x1", "path_on_host": "@disk"})

VSOCK = Body({
    "guest_cid": integer(True, U32, 3, sample=3, good=(4,)),
    "uds_path": text(True, "@vsock"),
    "vsock_id": text(sample="root", deprecated=True),
}, {"guest_cid": 3, "uds_path": "@vsock"})

BALLOON = Body({
    "amount_mib": integer(True, U32, 0, 128, good=(64,)),
    "deflate_on_oom": flag(True, good=(True,)),
    "stats_polling_interval_s": integer(False, U16, 0, U16, default=0),
    "free_page_hinting": flag(good=(True,)),
    "free_page_reporting": flag(good=(True,)),
}, {"amount_mib": 0, "deflate_on_oom": False}, refused=(({"amount_mib": 129}, "Amount of pages requested is too large."),))

ENTROPY = Body({"rate_limiter": obj(LIMITER)}, {})
SERIAL = Body({"serial_out_path": text(sample="@out"), "rate_limiter": obj(BUCKET)}, {})

LOGGER = Body({
    "log_path": text(sample="@log", bad=(("/nowhere/log", "(os error 2)"),)),
    "level": text(sample="Info", good=("Error", "Warning", "Warn", "Info", "Debug", "Trace", "Off", "debug", "WARNING", "oFF"),
                  bad=(("", ""), ("Loud", ""), ("Info ", ""))),
    "show_level": flag(good=(True,)),
    "show_log_origin": flag(good=(True,)),
    "module": text(sample="api_server::request"),
}, {})

METRICS = Body({
    "metrics_path": text(True, "@metrics", bad=(("/nowhere/metrics", "(os error 2)"),)),
    "emit_id": flag(good=(True,)),
    "properties": Field("map", sample={"a": "b"}, good=({},), bad=(({"a": 1}, "invalid type"), ({"a": None}, "invalid type"), ({"a": {}}, "invalid type"))),
}, {"metrics_path": "@metrics"}, is_open=True)

MMDS_CONFIG = Body({
    "network_interfaces": Field("list", True, item=text(), sample=["x1"],
                                bad=(([], "list of network interface IDs"), (["x2"], "list of network interface IDs"), (["x1", "x2"], "network interface"))),
    "version": choice("V1", "V2", default="V1", bad=(("V3", "unknown variant `V3`"),)),
    "ipv4_address": text(sample="169.254.169.254", good=("169.254.1.0", "169.254.254.255"),
                         bad=(("169.254.0.255", ""), ("169.254.255.0", ""), ("10.0.0.1", ""), ("169.254.1", ""), ("", ""))),
    "imds_compat": flag(good=(True,)),
}, {"network_interfaces": ["x1"]})

HOTPLUG = Body({
    "total_size_mib": integer(True, U32, 128, sample=1024, good=(128, 256)),
    "slot_size_mib": integer(False, U32, 128, sample=128, default=128, good=(256, 512, 1024)),
    "block_size_mib": integer(False, U32, 2, sample=2, default=2, good=(4, 64, 128)),
}, {"total_size_mib": 1024},
    refused=(({"total_size_mib": 1000}, ""), ({"block_size_mib": 3}, ""), ({"slot_size_mib": 130, "block_size_mib": 4, "total_size_mib": 1300}, ""),
             ({"slot_size_mib": 512, "total_size_mib": 256}, ""), ({"block_size_mib": 256}, "")))

BITS = "0b" + "x" * 31 + "1"
REGISTER = Body({"register": choice("eax", "ebx", "ecx", "edx", required=True), "bitmap": text(True, BITS, bad=(("0b2", ""), ("0b" + "1" * 33, ""), ("", "")))},
                {"register": "eax", "bitmap": BITS})
LEAF = Body({
    "leaf": text(True, "0x1", good=("1", "0b1"), bad=(("x", ""), ("0x100000000", ""), ("-1", ""))),
    "subleaf": text(True, "0x0", bad=(("", ""),)),
    "flags": integer(True, U32, good=(1,)),
    "modifiers": Field("list", True, item=obj(REGISTER), sample=[REGISTER.sample]),
}, {"leaf": "0x1", "subleaf": "0x0", "flags": 0, "modifiers": [REGISTER.sample]}, is_open=True)
MSR_BITS = "0b" + "x" * 60 + "0000"
MSR = Body({"addr": text(True, "0x10a", good=("266", "0b100001010"), bad=(("0x1ffffffff", ""), ("msr", ""))),
            "bitmap": text(True, MSR_BITS, good=("0b" + "x" * 60 + "_0000",), bad=(("0b3", ""),))}, {"addr": "0x10a", "bitmap": MSR_BITS})
CPU = Body({
    "kvm_capabilities": Field("list", item=text(), sample=["121"], good=(["!121"], []), bad=((["x"], ""), (["!"], ""), (["-1"], ""))),
    "cpuid_modifiers": Field("list", item=obj(LEAF), sample=[LEAF.sample]),
    "msr_modifiers": Field("list", item=obj(MSR), sample=[MSR.sample]),
}, {})

ACTION = Body({"action_type": choice("FlushMetrics", "SendCtrlAltDel", required=True)}, {"action_type": "FlushMetrics"})
START = Body({"action_type": choice("InstanceStart", required=True)}, {"action_type": "InstanceStart"})
STATE = Body({"state": choice("Resumed", "Paused", required=True)}, {"state": "Resumed"})
BALLOON_PATCH = Body({"amount_mib": integer(True, U32, 0, sample=8, good=(256,))}, {"amount_mib": 8},
                     refused=(({"amount_mib": U32}, "Amount of pages requested is too large."),))
STATISTICS = Body({"stats_polling_interval_s": integer(True, U16, 1, U16, sample=5)}, {"stats_polling_interval_s": 5},
                  refused=(({"stats_polling_interval_s": 0}, "Balloon config error"),))
HINTING = Body({"acknowledge_on_stop": flag(good=(True,))}, {})
DRIVE_PATCH = Body({"drive_id": text(True, "x1"), "path_on_host": text(sample="@disk2", bad=(("/nowhere", "(os error 2)"),)), "rate_limiter": obj(LIMITER)},
                   {"drive_id": "x1", "path_on_host": "@disk"})
INTERFACE_PATCH = Body({"iface_id": text(True, "x1"), "rx_rate_limiter": obj(LIMITER), "tx_rate_limiter": obj(LIMITER)}, {"iface_id": "x1"})
PMEM_PATCH = Body({"id": text(True, "x1"), "rate_limiter": obj(LIMITER)}, {"id": "x1"})
HOTPLUG_PATCH = Body({"requested_size_mib": integer(True, U32, 0, 1024, sample=0, good=(2, 128))}, {"requested_size_mib": 0},
                     refused=(({"requested_size_mib": 1}, ""), ({"requested_size_mib": 1026}, "")))
SNAPSHOT = Body({"snapshot_path": text(True), "mem_file_path": text(True), "snapshot_type": choice("Full", "Diff")},
                {"snapshot_path": "x", "mem_file_path": "y"})
BACKEND = Body({"backend_type": choice("File", "Uffd", required=True), "backend_path": text(True, "@nobody")},
               {"backend_type": "File", "backend_path": "@nobody"})
NET_OVERRIDE = Body({"iface_id": text(True, "x1"), "host_dev_name": text(True, "tap9")}, {"iface_id": "x1", "host_dev_name": "tap9"}, is_open=True)
VSOCK_OVERRIDE = Body({"uds_path": text(True, "v.sock")}, {"uds_path": "v.sock"}, is_open=True)
DRIVE_OVERRIDE = Body({"drive_id": text(True, "x1"), "path_on_host": text(True, "d")}, {"drive_id": "x1", "path_on_host": "d"}, is_open=True)
ONE_MEMORY = "either `mem_backend` or `mem_file_path`"
# mem_file_path, which stands for mem_backend, is test_every_field_of_a_load's own.
LOAD = Body({
    "snapshot_path": text(True, "@nobody"),
    "mem_backend": Field("object", body=BACKEND, lacking=BAD_JSON + "missing field: " + ONE_MEMORY + " is required"),
    "enable_diff_snapshots": flag(deprecated=True),
    "track_dirty_pages": flag(),
    "resume_vm": flag(),
    "network_overrides": Field("list", item=Field("object", body=NET_OVERRIDE, sample=NET_OVERRIDE.sample), sample=[NET_OVERRIDE.sample]),
    "vsock_override": obj(VSOCK_OVERRIDE),
    "clock_realtime": flag(), "keep_generation_id": flag(),
    "huge_pages": choice("Snapshot", "None", "Transparent", "2M"),
    "drive_overrides": Field("list", item=Field("object", body=DRIVE_OVERRIDE, sample=DRIVE_OVERRIDE.sample), sample=[DRIVE_OVERRIDE.sample]),
    "eager": flag(),
}, {"snapshot_path": "@nobody", "mem_backend": BACKEND.sample})

BOTH, PRE, POST = "both", "pre", "post"
INTERFACE_FIRST = (("PUT", "/network-interfaces/x1", INTERFACE.sample),)

ENDPOINTS = [
    Endpoint("/", {"GET": (BOTH, None)}),
    Endpoint("/version", {"GET": (BOTH, None)}),
    Endpoint("/vm", {"PATCH": (POST, STATE)}),
    Endpoint("/vm/config", {"GET": (BOTH, None)}),
    Endpoint("/actions", {"PUT": (POST, ACTION)}),
    Endpoint("/machine-config", {"GET": (BOTH, None), "PUT": (PRE, MACHINE), "PATCH": (PRE, MACHINE_PATCH)},
             get={"vcpu_count": 2, "mem_size_mib": 256, "smt": False, "track_dirty_pages": False, "huge_pages": "None"}),
    Endpoint("/boot-source", {"PUT": (PRE, BOOT)}),
    Endpoint("/cpu-config", {"PUT": (PRE, CPU)}),
    Endpoint("/drives/x1", {"PUT": (PRE, DRIVE), "PATCH": (POST, DRIVE_PATCH), "DELETE": (POST, None)}, "drive_id"),
    Endpoint("/network-interfaces/x1", {"PUT": (PRE, INTERFACE), "PATCH": (POST, INTERFACE_PATCH), "DELETE": (POST, None)}, "iface_id"),
    Endpoint("/pmem/x1", {"PUT": (PRE, PMEM), "PATCH": (POST, PMEM_PATCH), "DELETE": (POST, None)}, "id"),
    Endpoint("/vsock", {"PUT": (PRE, VSOCK)}),
    Endpoint("/balloon", {"GET": (BOTH, None), "PUT": (PRE, BALLOON), "PATCH": (POST, BALLOON_PATCH)},
             get={"amount_mib": 0, "deflate_on_oom": False, "stats_polling_interval_s": 0, "free_page_hinting": False, "free_page_reporting": False}),
    Endpoint("/balloon/statistics", {"GET": (POST, None), "PATCH": (POST, STATISTICS)}),
    Endpoint("/balloon/hinting/start", {"PATCH": (POST, HINTING)}),
    Endpoint("/balloon/hinting/status", {"GET": (POST, None)}),
    Endpoint("/balloon/hinting/stop", {"PATCH": (POST, None)}),
    Endpoint("/entropy", {"PUT": (PRE, ENTROPY)}),
    Endpoint("/serial", {"PUT": (PRE, SERIAL)}),
    Endpoint("/logger", {"PUT": (PRE, LOGGER)}),
    Endpoint("/metrics", {"PUT": (PRE, METRICS)}),
    Endpoint("/mmds", {"GET": (BOTH, None), "PUT": (BOTH, None), "PATCH": (BOTH, None)}),
    Endpoint("/mmds/config", {"PUT": (PRE, MMDS_CONFIG)}, before=INTERFACE_FIRST),
    Endpoint("/hotplug/memory", {"GET": (POST, None), "PUT": (PRE, HOTPLUG), "PATCH": (POST, HOTPLUG_PATCH)}),
    Endpoint("/snapshot/create", {"PUT": (POST, SNAPSHOT)}),
    Endpoint("/snapshot/load", {"PUT": (PRE, LOAD)}),
]
# How Firecracker's errors about the contents of a body begin.
CATEGORIES = {"/machine-config": "Machine config error", "/boot-source": "Boot source error", "/drives": "Drive config error",
              "/network-interfaces": "Network config error", "/vsock": "Vsock config error", "/balloon": "Balloon config error",
              "/mmds": "MMDS", "/metrics": "Metrics", "/logger": "Logger"}
