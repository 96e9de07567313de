#!/usr/bin/python3
"""fuzz/run.py: searches with every libFuzzer target, one process at a time, until each has had HUSK_FUZZ_SECONDS of CPU time (3600).

  fuzz/run.py [--build FOLDER] [--junit FILE] [WORD]    only targets whose name holds WORD

`tools/test --long fuzz` builds what it needs and calls it. What a search has found is kept in HUSK_FUZZ_CACHE (~/.cache/husk-fuzz), so that
it can be stopped at any time and goes on the next time: CPU time of earlier sessions counts. Delete the folder of a target to begin anew.
  <target>/corpus      inputs that reached something new
  <target>/crash-*     inputs that fail; a target with one is not searched before it is fixed, then they join the corpus
  <target>/state.json  CPU seconds and executions so far
  <target>/log         what libFuzzer said last
"""
import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("HUSK_FUZZ_CACHE", Path.home() / ".cache" / "husk-fuzz"))
SECONDS = float(os.environ.get("HUSK_FUZZ_SECONDS", 3600))
SLICE = 120  # seconds of one process
MAX_LEN = {"config": 4000, "gdb": 4000, "http": 4000, "mmds": 2000, "package": 20000}  # bytes of an input; others: 600
LIMITS = ["-rss_limit_mb=2048", "-timeout=60"]
ENV = {**os.environ, "ASAN_OPTIONS": "abort_on_error=1:detect_leaks=1", "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1"}


def cpu_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def schema_words(husk, kind):
    """Every name in a schema that husk prints about itself: a dictionary that is never out of date."""
    text = subprocess.run([husk, kind, "schema"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r'"([A-Za-z0-9_./{}-]{2,40})"', text))


class Target:
    def __init__(self, name, build):
        self.name = name
        self.program = build / "fuzz" / f"fuzz_{name}"
        self.folder = CACHE / name
        self.corpus = self.folder / "corpus"
        self.corpus.mkdir(parents=True, exist_ok=True)
        self.state_file = self.folder / "state.json"
        self.state = {"cpu": 0.0, "execs": 0, "coverage": 0}
        if self.state_file.exists():
            self.state.update(json.loads(self.state_file.read_text()))
        self.failure = None

    def crashes(self):
        return sorted(p for p in self.folder.iterdir() if re.match(r"(crash|leak|timeout|oom)-", p.name))

    def run(self, *args):
        """libFuzzer with these arguments; its exit code."""
        with open(self.folder / "log", "wb") as log:
            return subprocess.run([self.program, *LIMITS, *args], stdout=log, stderr=log, env=ENV, cwd=self.folder).returncode

    def recheck(self):
        for crash in self.crashes():
            if self.run(crash) != 0:
                self.failure = crash
            else:
                crash.rename(self.corpus / crash.name)

    def dictionary(self, husk):
        """The option for libFuzzer, if there is one."""
        words = {"config": ["config"], "http": ["config", "api"]}.get(self.name, [])
        text = "".join(f'"{w}"\n' for w in sorted(set().union(*(schema_words(husk, kind) for kind in words))))
        own = FUZZ / f"{self.name}.dict"
        text += own.read_text() if own.exists() else ""
        (self.folder / "words.dict").write_text(text)
        return [f"-dict={self.folder}/words.dict"] if text else []

    def search(self, husk):
        before, code = cpu_of_children(), 0
        seconds = max(10, min(SLICE, round(SECONDS - self.state["cpu"])))
        try:
            code = self.run(f"-max_total_time={seconds}", f"-max_len={MAX_LEN.get(self.name, 600)}", *self.dictionary(husk),
                            "-print_final_stats=1", f"-artifact_prefix={self.folder}/", self.corpus, FUZZ / "corpus" / self.name)
        finally:
            self.account(cpu_of_children() - before)
        if code != 0:
            self.failure = (self.crashes() or [f"{self.folder}/log (exit {code})"])[-1]

    def account(self, cpu):
        text = (self.folder / "log").read_text(errors="replace")
        execs = re.findall(r"number_of_executed_units: (\d+)", text)
        coverage = re.findall(r"cov: (\d+)", text)
        self.state["cpu"] += cpu
        self.state["execs"] += int(execs[-1]) if execs else 0
        self.state["coverage"] = int(coverage[-1]) if coverage else self.state["coverage"]
        self.state_file.write_text(json.dumps(self.state))

    def line(self):
        cpu, execs = self.state["cpu"], self.state["execs"]
        result = f"FAILED: {self.failure}" if self.failure else "clean" if cpu >= SECONDS - 1 else "not done"
        return (f"{self.name:12} {cpu:7.0f} s of CPU {execs:10} execs {execs / max(cpu, 1):7.0f}/s  coverage {self.state['coverage']:6}  "
                f"corpus {len(list(self.corpus.iterdir())):5}  {result}")


def write_junit(path, targets):
    suite = ET.Element("testsuite", name="fuzz")
    for t in targets:
        case = ET.SubElement(suite, "testcase", classname="fuzz", name=t.name)
        if t.failure or t.state["cpu"] < SECONDS - 1:
            ET.SubElement(case, "failure", message=t.line())
    ET.ElementTree(suite).write(path)


def stop(number, frame):
    raise KeyboardInterrupt  # ends the search that runs, too


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=FUZZ.parent / "build-asan", help="build folder with the libFuzzer programs")
    parser.add_argument("--junit", type=Path, help="JUnit file to write")
    parser.add_argument("word", nargs="?", default="")
    opts = parser.parse_args()
    build = opts.build.resolve()
    names = sorted(p.stem.removeprefix("fuzz_") for p in FUZZ.glob("fuzz_*.c") if opts.word in p.stem)
    missing = [n for n in names if not (build / "fuzz" / f"fuzz_{n}").exists()]
    if missing or not names:
        sys.exit(f"no libFuzzer program in {build}/fuzz for: {', '.join(missing) or opts.word} (clang, libclang-rt-14-dev, -Dfuzz=true)")
    os.nice(19)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    targets = [Target(n, build) for n in names]
    try:
        for t in targets:
            t.recheck()
        while open_targets := [t for t in targets if not t.failure and t.state["cpu"] < SECONDS - 1]:
            least = min(open_targets, key=lambda t: t.state["cpu"])  # in turns: a session that is stopped has searched everywhere
            least.search(build / "husk")
            print(least.line(), flush=True)
    except KeyboardInterrupt:
        print("stopped; the next run goes on from here")
    print("\n" + "\n".join(t.line() for t in targets))
    if opts.junit:
        write_junit(opts.junit, targets)
    return 1 if any(t.failure or t.state["cpu"] < SECONDS - 1 for t in targets) else 0


if __name__ == "__main__":
    sys.exit(main())
