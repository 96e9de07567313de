"""Style as tests: who may include whom, how long files and functions are, what no source may contain."""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
SOURCES = sorted(p for p in SRC.rglob("*.[ch]"))

# Layers go down only: a file of the folder on the left may include headers of the folders on the right, and of its own.
LAYERS = {
    "vmm/base": [],
    "vmm": ["vmm/base", "vmm"],
    "vmm/dev": ["vmm/base", "vmm"],
    "arch": ["vmm/base", "vmm"],
    "virtio": ["vmm/base", "vmm"],
    "virtio/backend": ["vmm/base", "vmm", "virtio"],
    "migration": ["vmm/base", "vmm"],
    "kvm": ["vmm/base", "vmm", "arch"],
    "tcg": ["vmm/base", "vmm", "arch"],
    "api": ["vmm/base", "vmm", "migration"],
    "cli": ["vmm/base", "vmm", "arch", "migration", "api"],
    "jailer": ["vmm/base", "cli", "api"],  # a program of its own: argument parser, Firecracker's version
    "": ["vmm/base", "vmm", "cli", "api"],
}
EXTRA = {"virtio": ["virtio/backend"]}  # devices name their backend interfaces


def layer_of(path):
    folder = Path(path).parent.as_posix()
    folder = "" if folder == "." else folder
    while folder not in LAYERS:
        folder = Path(folder).parent.as_posix()
        folder = "" if folder == "." else folder
    return folder


def includes(path):
    return re.findall(r'^#include "([^"]+)"', path.read_text(), re.M)


def test_layers_go_down_only():
    wrong = []
    for path in SOURCES:
        mine = layer_of(path.relative_to(SRC))
        allowed = set(LAYERS[mine]) | {mine} | set(EXTRA.get(mine, []))
        for inc in includes(path):
            if not (SRC / inc).exists():
                continue  # made by the build
            if layer_of(inc) not in allowed:
                wrong.append(f"{path.relative_to(ROOT)} includes {inc}")
    assert not wrong, "\n".join(wrong)


def test_nobody_includes_a_device():
    wrong = [f"{p.relative_to(ROOT)}: {i}" for p in SOURCES for i in includes(p) if i.startswith("vmm/dev/")]
    assert not wrong, "\n".join(wrong)


def functions(path):
    """(name, lines) of each function: kernel style puts its opening and closing brace in column 0."""
    name = start = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = re.match(r"[A-Za-z_].*?\b(\w+)\(", line)
        if found and not line.endswith(";"):
            name, head = found.group(1), number
        if line == "{" and name:
            start = head
        elif line == "}" and start:
            yield name, number - start + 1
            name = start = None


def test_functions_are_short():
    lengths, wrong = [], []
    for path in SOURCES:
        text = path.read_text()
        for name, lines in functions(path):
            lengths.append(lines)
            if lines > 70 and not re.search(r"/\* long: .*\*/\s*[^;{}]*\b" + name + r"\(", text):
                wrong.append(f"{path.relative_to(ROOT)}: {name} has {lines} lines; split it, or say why before it: /* long: why */")
    assert not wrong, "\n".join(wrong)
    lengths.sort()
    assert lengths[len(lengths) // 2] <= 14 and lengths[len(lengths) * 9 // 10] <= 36


def test_files_are_short():
    sizes = sorted((len(p.read_text().splitlines()), p) for p in SOURCES if p.suffix == ".c")
    assert sizes[-1][0] <= 1000, sizes[-1]
    assert sizes[len(sizes) * 9 // 10][0] <= 600, sizes[len(sizes) * 9 // 10]


def test_every_source_begins_by_saying_what_it_is():
    wrong = [str(p.relative_to(ROOT)) for p in SOURCES if not re.match(r"/\*\s*(\*?\s*)?" + re.escape(p.name) + ":", p.read_text())]
    assert not wrong, "\n".join(wrong)


def test_only_main_exits_and_nothing_is_left_unfinished():
    wrong = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = re.sub(r'"(\\.|[^"\\])*"|/\*.*?\*/', "", line)
            if re.search(r"(?<![\w_])_?exit\(", code) and path.name not in ("main.c", "session.c"):  # the latter: a signal handler
                wrong.append(f"{path.relative_to(ROOT)}:{number}: exit() belongs to main.c")
            if re.search(r"(?<![\w_])(strcpy|strcat|sprintf|gets|alloca)\(", code) and path.name != "log.c":
                wrong.append(f"{path.relative_to(ROOT)}:{number}: unbounded string function")
            if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: unfinished")
    assert not wrong, "\n".join(wrong)


def test_no_mutable_globals():
    """Every file-scope object is const, apart from the exceptions that ARCHITECTURE.md lists."""
    allowed = {"terminal", "signal_vm", "current_cpu", "previous", "fault_sandbox"}
    wrong = []
    for path in SOURCES:
        for line in path.read_text().splitlines():
            found = re.match(r"(?:static )?(?!typedef|extern|struct \w+;|enum|return|static const|const|_Static|static inline)"
                             r"(?:volatile |_Thread_local )?(?:struct \w+|[us]\d+|int|bool|char|size_t|sig_atomic_t|unsigned)\s[\s*]*(\w+)(?:\[.*\])?\s*(?:=.*|;)$", line)
            if found and found.group(1) not in allowed and path.suffix == ".c":
                wrong.append(f"{path.relative_to(ROOT)}: {line}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("header", [p for p in SOURCES if p.suffix == ".h"], ids=lambda p: str(p.relative_to(SRC)))
def test_headers_stand_alone(header):
    cmd = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", f"-I{SRC}", "-Wall", "-Werror", "-fsyntax-only", "-x", "c", str(header)]
    done = subprocess.run(cmd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_clang_format_has_nothing_to_say():
    tool = shutil.which("clang-format")
    assert tool, "clang-format is missing: tools/setup installs it"
    files = [str(p) for p in SOURCES] + [str(p) for d in ("tests", "fuzz") for p in (ROOT / d).rglob("*.[ch]")]
    done = subprocess.run([tool, "--dry-run", "-Werror", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


# What lean code (src/tcg/README.md) may call, and why that does no harm to a guest's vector registers. No memcpy, memset, memmove: gcc
# expands them to `rep movsb`.
LEAN_MAY_CALL = {
    "the caller saved the guest's state (fpu_save)":
        "bus_read bus_write trace_emit mem_read mem_await mem_dirty vcpu_kept_msr clock_now clock_host_ns clock_gettime "
        "pthread_cond_wait pthread_cond_broadcast loop_post loop_timer_arm tools_unit",
    "glibc's uses general registers only": "pthread_mutex_lock pthread_mutex_unlock",
    "before the guest runs, and after": "mmap64 munmap err_set aligned_alloc xzalloc free bus_add device_init device_fini "
                                        "loop_timer_cancel loop_work_cancel",
    "libgcc's arithmetic, the linker": "__divti3 __udivti3 _GLOBAL_OFFSET_TABLE_",
    "the end": "assert_failed lockstep_diverged",
}


def test_lean_code_calls_nothing_that_uses_vector_registers():
    database = ROOT / "build" / "compile_commands.json"
    if not database.exists():
        pytest.skip("no build/: ninja -C build")
    objects = [ROOT / "build" / c["output"] for c in json.loads(database.read_text()) if "-mgeneral-regs-only" in c["command"]]
    objects = [o for o in objects if o.exists()]
    if not objects:
        pytest.skip("no lean code in this build")
    symbols = subprocess.run(["nm", "-A", *objects], capture_output=True, text=True, check=True).stdout.splitlines()
    fields = [(Path(line.split(":")[0]).name, *line.split()[-2:]) for line in symbols]
    ours = {name for _, kind, name in fields if kind != "U"}
    allowed = ours | set(" ".join(LEAN_MAY_CALL.values()).split())
    wrong = sorted({f"{obj} calls {name}" for obj, kind, name in fields if kind == "U" and name not in allowed})
    assert not wrong, "\n".join(wrong)


def test_folder_readmes_are_there_and_short():
    for folder in ("src/vmm", "src/vmm/dev", "src/arch/x86_64", "src/kvm", "src/tcg", "src/virtio", "configs", "tests"):
        readme = ROOT / folder / "README.md"
        assert readme.exists(), f"{folder} has no README.md"
        assert len(readme.read_text().splitlines()) <= 60, f"{readme} is longer than 60 lines"
    assert len((ROOT / "HACKING.md").read_text().splitlines()) <= 150


def test_markdown_links_lead_somewhere():
    wrong = []
    for page in [*ROOT.glob("*.md"), *(p for d in ("docs", "src", "configs", "tests", "bench") for p in (ROOT / d).rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            if not os.path.exists(page.parent / target):
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(wrong)
