"""The nested host itself: a true KVM, commands with their channels and exit codes, terminals, files, death and revival."""
import os
import time

import pytest

from nested import HostDied, NestedError, NestedTimeout


def test_kvm_runs_instructions(nested):
    r = nested.run("kvmcheck", timeout=60)
    assert (r.rc, r.stderr) == (0, ""), r
    assert "ok" in r.stdout


def test_channels_and_exit_code_come_apart(nested):
    r = nested.run("cat; echo err >&2; exit 7", input="in\n", timeout=30)
    assert r == (7, "in\n", "err\n")


def test_a_list_is_not_read_by_a_shell(nested):
    assert nested.run(["printf", "%s|", "a b", "$HOME", ""], timeout=30).stdout == "a b|$HOME||"


def test_environment_and_directory(nested):
    assert nested.run("echo $X; pwd", env={"X": "1 2"}, cwd="/tmp", timeout=30).stdout == "1 2\n/tmp\n"


def test_a_signal_is_128_plus(nested):
    assert nested.run("kill -TERM $$", timeout=30).rc == 128 + 15


def test_a_missing_program_says_so(nested):
    r = nested.run(["/no/such"], timeout=30)
    assert r.rc == 127 and "No such file" in r.stderr


def test_a_timeout_kills_the_command(nested):
    with pytest.raises(NestedTimeout) as e:
        nested.run("echo begun; sleep 4242", timeout=2)
    assert "begun" in str(e.value)
    assert nested.run("sleep 0.3; ps -o args | grep -cx 'sleep 4242'", timeout=30).stdout == "0\n"


def test_a_background_child_does_not_hold_up_the_end(nested):
    t = time.monotonic()
    assert nested.run("sleep 60 & echo x", timeout=30).stdout == "x\n"
    assert time.monotonic() - t < 20


def test_files_go_there_and_back(nested, tmp_path):
    blob = os.urandom(3 << 20)
    src = tmp_path / "blob"
    src.write_bytes(blob)
    src.chmod(0o750)
    nested.put(str(src), "/tmp/blob")
    assert nested.get("/tmp/blob") == blob
    assert nested.run("stat -c %a /tmp/blob && rm /tmp/blob", timeout=30).stdout == "750\n"


def test_a_terminal_can_be_typed_into(nested):
    with nested.popen(["sh", "-i"], tty=True, env={"PS1": "P> "}, size=(33, 99)) as p:
        p.expect(r"P> ", timeout=30)
        p.send("stty size; tty\n")
        p.expect(r"33 99\r\n/dev/pts/", timeout=30)
        p.send("sleep 1000\n")
        time.sleep(0.5)
        p.send("\x03")
        p.expect(r"P> ", timeout=30)
        p.send("exit 5\n")
        assert p.wait(30) == 5


def test_pexpect_can_drive_a_terminal(nested):
    pytest.importorskip("pexpect")
    with nested.popen(["sh"], tty=True, env={"PS1": "P> "}) as p:
        x = p.pexpect(timeout=30)
        x.expect("P> ")
        x.send("echo $((6*7))\n")
        x.expect("42\r\n")


def test_commands_run_side_by_side(nested):
    procs = [nested.popen("sleep 1; echo %d" % i) for i in range(8)]
    for i, p in enumerate(procs):
        assert p.wait(60) == 0 and p.text == "%d\n" % i
        p.close()


def test_guest_images_and_tap_are_there(nested):
    r = nested.run("ls /husk/guest; ip tuntap add t0 mode tap && ip link del t0; touch /husk/guest/x && rm /husk/guest/x", timeout=30)
    assert r.rc == 0 and "vmlinuz-6.12" in r.stdout, r


def test_a_dead_host_is_told_and_restarted(nested_session):
    nested_session.start()
    with pytest.raises(HostDied) as e:
        nested_session.run("echo c >/proc/sysrq-trigger; sleep 30", timeout=60)
    assert "sysrq" in str(e.value)
    with pytest.raises(HostDied):
        nested_session.run("true")
    nested_session.start()
    assert nested_session.run("true", timeout=30).rc == 0


def test_a_missing_image_says_what_to_run(tmp_path):
    from nested import NestedHost
    with pytest.raises(NestedError, match="tools/mkguest"):
        NestedHost(guest_dir=str(tmp_path))
