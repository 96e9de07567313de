#!/usr/bin/python3
"""tools/test: builds husk in the variants that CI guards, runs every suite, and counts (tools/test installs what that needs first).

  tools/test            all: style, unit and device tests (gcc; clang with ASan+UBSan; TSan where threads meet), fuzz replay,
                        bad input, and the system suite with real Debian guests on the KVM of a nested host
  tools/test --quick    without the nested host (about two minutes)
  tools/test -k WORD    only system tests whose name holds WORD (builds first)
  tools/test --arch arm64  all of arm64: the cross-build, the unit and device suites (under qemu-user; where that does not do, on a true arm64
                        kernel), and Debian's arm64 kernels on the KVM of a nested arm64 host: ten minutes. tools/test alone has
                        the cross-build, the unit suite and one boot of it
  tools/test --long tcg the software accelerator under Debian's programs (tests/system/long): hours; -k WORD takes some of them
  tools/test --long vsock 1 GiB each way over vsock, a thousand connections: minutes
  tools/test --long vhost_user fio's verify on a drive of qemu-storage-daemon, undisturbed and killed: minutes
  tools/test --long snapshot  a hundred stops of a busy guest, under both accelerators and across them; crashes: an hour
  tools/test --long migrate   fifty moves in each mode between two namespaces, 1 GiB, 50 MiB/s written; 200 cuts (HUSK_CUTS); under nested KVM: an hour
  tools/test --long fuzz every fuzz target for a CPU hour (HUSK_FUZZ_SECONDS); goes on where it was stopped (fuzz/run.py); -k WORD: some
  tools/test --long arm64 the tests of the nested arm64 host with more rounds, kernels and CPUs: an hour; -k WORD takes some of them
  tools/test --long load 64 clients of the API with 1,000 requests each: half a minute

Ends with one line: N passed, N failed, N skipped. A skip is printed with its reason.
"""
import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = ["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
VARIANTS = {
    "build": dict(options=["--buildtype=release", "--werror"], env={}),
    "build-asan": dict(options=["--buildtype=debugoptimized", "--werror", "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dfuzz=true"],
                       env={"CC": "clang"}),
    "build-tsan": dict(options=["--buildtype=debugoptimized", "--werror", "-Db_sanitize=thread"], env={}),
    "build-arm64": dict(options=["--cross-file", "configs/cross/aarch64.ini", "--buildtype=release", "--werror"], env={}),
    "build-nokvm": dict(options=["--buildtype=release", "--werror", "-Dkvm=disabled", "-Dtests=false"], env={}),
}
# A sanitizer's build, or another machine's, on a busy machine is slower than the tests' own limits allow for.
SLOWER = {"build-asan": ["--timeout-multiplier=3"], "build-tsan": ["--timeout-multiplier=4"], "build-arm64": ["--timeout-multiplier=4"]}
TOLD_LINES = 60
AGAIN_MOST = 3  # failures that are worth a second try: more are no accident
# Not under qemu-user, but on a nested host's kernel (tests/arm64/test_suite_arm64.py). What they ask for qemu-user does not pass on: io_uring,
# openat2, pagemaps, userfaultfd, seccomp, sockets' options; memfile: a limit on time. Their programs in build-arm64/tests.
ON_ARM64_KERNEL = {"blk_file": "unit/test_blk_file", "jailer_libs": "unit/test_jailer_libs", "jailer_tree": "unit/test_jailer_tree",
                   "memfile": "unit/test_memfile", "pager": "unit/test_pager", "sandbox": "unit/test_sandbox", "uffd": "unit/test_uffd",
                   "working_set": "unit/test_working_set", "blk": "dev/test_dev_blk", "net": "dev/test_dev_net",
                   "net_state": "dev/test_dev_net_state"}
ARM64_BOOT = "tests/arm64/test_boot_arm64.py::test_a_cloud_kernel_boots_with_what_the_device_tree_names[6.12-4]"


class Tally:
    """Adds up JUnit files; a step that dies without one counts as a failure. With out, a file, all that steps print goes
    there, and they stand back for other processes (nice)."""

    def __init__(self, out=None):
        self.out = out
        self.passed = self.failed = self.skipped = 0
        self.notes = []

    def add_junit(self, path):
        for case in ET.parse(path).getroot().iter("testcase"):
            name = f"{case.get('classname', '')} {case.get('name')}".strip()
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                self.failed += 1
                self.notes.append(f"FAILED  {name}")
            elif skip is not None:
                self.skipped += 1
                reason = skip.get("message") or (case.findtext("system-out") or "").partition("# SKIP")[2].strip()
                self.notes.append(f"skipped {name}: {reason}")
            else:
                self.passed += 1

    def step(self, name, cmd, junit=None, env=None):
        start, failed_before = time.time(), self.failed
        self.say(f"== {name}")
        if junit:
            Path(junit).unlink(missing_ok=True)
        done = subprocess.run(["nice", *cmd] if self.out else cmd, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=self.out, stderr=self.out)
        if junit and Path(junit).exists():
            self.add_junit(junit)
        elif done.returncode == 0:
            self.passed += 1
        if done.returncode != 0 and self.failed == failed_before:
            self.failed += 1
            self.notes.append(f"FAILED  {name} (exit {done.returncode})")
        self.say(f"== {name}: {time.time() - start:.0f} s")
        return done.returncode == 0

    def say(self, line):
        print(line, file=self.out, flush=True)

    def add(self, other):
        self.passed, self.failed, self.skipped = self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        self.notes += other.notes


def build(tally, name):
    variant = VARIANTS[name]
    env = {**os.environ, **variant["env"]}
    if not (ROOT / name / "build.ninja").exists():
        if not tally.step(f"configure {name}", ["meson", "setup", name, *variant["options"]], env=env):
            return False
    return tally.step(f"build {name}", ["ninja", "-C", name, "--quiet"], env=env)


def meson_tests(tally, name, suites=(), but=()):
    args = [a for s in suites for a in ("--suite", s)]
    if but:
        listed = subprocess.run(["meson", "test", "-C", name, "--list", *args], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        args = sorted({line.split(" / ")[-1].strip() for line in listed.splitlines() if " / " in line} - set(but))
    logs = ROOT / name / "meson-logs"
    if not tally.step(f"{name} tests", ["meson", "test", "-C", name, "--no-rebuild", *SLOWER.get(name, []), *args],
                      junit=logs / "testlog.junit.xml"):
        tally.notes += [note for line in (logs / "testlog.json").read_text().splitlines() for note in told_by(json.loads(line))]


def told_by(test):
    """What a failed test program said, for the end of the output: CI shows only that. A crash, a time-out or a sanitizer's report is in no JUnit file."""
    if test["result"] in ("OK", "SKIP", "EXPECTEDFAIL"):
        return
    yield f"{test['name']}: {test['result']}, exit {test.get('returncode')}, {test['duration']:.1f} s"
    for stream in ("stdout", "stderr"):
        yield from (f"    {line[:200]}" for line in test.get(stream, "").splitlines()[-TOLD_LINES:] if not line.startswith("ok "))


def pytests(tally, name, *args, husk="build/husk", long=False, tries=1):
    junit = ROOT / "build" / f"junit-{name}.xml"
    env, before = {"HUSK": str(ROOT / husk), **({"HUSK_LONG": "1"} if long else {})}, tally.failed
    good = tally.step(name, [*PYTEST, f"--junitxml={junit}", "-rs", *args], junit=junit, env=env)
    if tries > 1 and not good and junit.exists() and tally.failed - before <= AGAIN_MOST:
        once_more(tally, name, junit, env)


def once_more(tally, name, junit, env):
    """Tests with real guests depend on how much of the processor they get: a few that failed are run again, alone. What passes then counts as passed
    and is named at the end, for somebody to look into."""
    failed = [case for case in ET.parse(junit).getroot().iter("testcase") if case.find("failure") is not None or case.find("error") is not None]
    for case in failed:
        second, label = Tally(tally.out), f"{case.get('classname')} {case.get('name')}"
        node = f"{case.get('classname').replace('.', '/')}.py::{case.get('name')}"
        if second.step(f"{name}, once more: {node}", [*PYTEST, f"--junitxml={junit}.again", "-rs", node], junit=f"{junit}.again", env=env) and second.passed:
            tally.failed, tally.passed = tally.failed - 1, tally.passed + 1
            tally.notes[tally.notes.index(f"FAILED  {label}")] = f"passed at the second try only: {label}"


def fuzz(tally, word):
    if build(tally, "build-asan"):
        junit = ROOT / "build-asan" / "junit-fuzz.xml"
        tally.step("fuzz", ["fuzz/run.py", f"--junit={junit}", *([word] if word else [])], junit=junit)


def arm64(tally, word=None, brief=False, long=False):
    """brief: what CI has time for, beside other steps; long: the nested host's tests alone, with more rounds."""
    if not build(tally, "build-arm64"):
        return
    if not word and not long:
        meson_tests(tally, "build-arm64", ["unit"] if brief else ["unit", "dev", "dev-racy"], but=ON_ARM64_KERNEL)
    if tally.step("arm64 guest images", ["tools/mkguest-arm64"]):
        pytests(tally, "arm64", "-vv", ARM64_BOOT if brief else "tests/arm64", *(["-k", word] if word else []), husk="build-arm64/husk", long=long)


@contextlib.contextmanager
def beside(tally, job):
    """Runs job beside the block's steps, in a thread. What it prints comes in one piece after theirs."""
    with tempfile.TemporaryFile("w+") as out:
        mine = Tally(out)
        thread = threading.Thread(target=job, args=(mine,))
        thread.start()
        try:
            yield
        finally:
            thread.join()
            out.seek(0)
            print(out.read(), end="", flush=True)
            tally.add(mine)


def run(tally, opts):
    if opts.arch or opts.long == "arm64":
        arm64(tally, opts.k, long=bool(opts.long))
        return
    if opts.long == "fuzz":
        fuzz(tally, opts.k)
        return
    if not build(tally, "build"):
        return
    images = tally.step("guest images", ["tools/mkguest", *(["--full"] if opts.long else [])])  # unit tests read Debian's kernels too
    if opts.long:
        pytests(tally, f"long-{opts.long}", f"tests/system/long/test_{opts.long}_long.py", *(["-k", opts.k] if opts.k else []), long=True)
        return
    if opts.k:
        pytests(tally, "system", "tests/nested", "tests/system", "-k", opts.k)
        return
    pytests(tally, "style", "tests/style")
    meson_tests(tally, "build")
    if build(tally, "build-asan"):
        meson_tests(tally, "build-asan")
    if build(tally, "build-tsan"):
        meson_tests(tally, "build-tsan", ["dev", "threads"])
    build(tally, "build-nokvm")
    if opts.quick:
        pytests(tally, "bad input", "tests/system/test_bad_input.py")
        return
    with beside(tally, lambda mine: arm64(mine, brief=True)):  # the system suite's nested host has one CPU
        if images:
            pytests(tally, "system", "tests/nested", "tests/system", tries=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="tools/test")
    parser.add_argument("--quick", action="store_true", help="leave out what needs the nested host")
    parser.add_argument("--long", choices=["tcg", "vsock", "vhost_user", "load", "snapshot", "migrate", "fuzz", "arm64"], help="tests that take hours, and nothing else")
    parser.add_argument("--arch", choices=["arm64"], help="cross-build for another architecture and test that")
    parser.add_argument("-k", metavar="WORD", help="only system tests whose name holds WORD")
    tally = Tally()
    run(tally, parser.parse_args())
    print("\n".join(tally.notes))
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped", flush=True)
    return 1 if tally.failed or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
