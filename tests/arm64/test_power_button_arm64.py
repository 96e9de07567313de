"""The power button: Debian's generic kernel has the driver (gpio_keys) and hears a press; busybox's acpid, as any power daemon, ends the machine."""
import base64
import json
import re

from hosted import between, host, until

KERNEL = "6.12-generic"  # Debian's cloud kernels are built without gpio_keys
GUEST = r"""
mkdir -p /etc/acpi/PWRF /var/log /var/run
cat >/etc/acpi/PWRF/00000080 <<'END'
#!/bin/sh
sleep 1; grep 'Power Button' /proc/interrupts >/dev/console; echo acpid ends this machine >/dev/console; poweroff -f
END
chmod +x /etc/acpi/PWRF/00000080; acpid; cat /proc/bus/input/devices
until ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q event0; do sleep 0.1; done
echo the guest listens; sleep 60
"""


def test_a_press_ends_a_guest_that_listens_also_after_a_restore():
    script = base64.urlsafe_b64encode(GUEST.encode()).decode()
    vm = {"/machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
          "/boot-source": {"kernel_image_path": f"/guest/vmlinuz-{KERNEL}", "initrd_path": f"/guest/initrd-{KERNEL}.img",
                           "boot_args": f"console=ttyS0 panic=-1 quiet husk.exec={script}"}}
    api = "husk ctl /tmp/api"
    out = host("husk --api-sock /tmp/api >/tmp/first 2>/tmp/errors & pid=$!\n" + until("[ -S /tmp/api ]") + "\n"
               + "".join(f"{api} put {path} '{json.dumps(body)}' || echo {path} fails\n" for path, body in vm.items())
               + f"{api} start || echo start fails\necho EARLY; {api} stop 2>&1; echo SAID\n" + until("grep -q 'the guest listens' /tmp/first") + "\n"
               f"{api} pause; {api} stop; echo pressed: $?; {api} snapshot /tmp/snap --keep-paused >/dev/null 2>&1; echo saved: $?; cp /tmp/first /tmp/before; {api} resume\n"
               "wait $pid; echo first ends with $?; husk run --restore /tmp/snap >/tmp/second 2>>/tmp/errors </dev/null; echo second ends with $?\n"
               "echo BEFORE; cat /tmp/before; echo FIRST; cat /tmp/first; echo; echo SECOND; cat /tmp/second; echo; echo ERRORS; cat /tmp/errors")
    assert "the guest does not listen to its power button: its kernel has to have the driver gpio_keys" in between(out, "EARLY", "SAID"), out
    assert "pressed: 0\nsaved: 0\n" in out and "first ends with 0\nsecond ends with 0\n" in out, out
    before, first, second = between(out, "BEFORE", "FIRST"), between(out, "FIRST", "SECOND"), between(out, "SECOND", "ERRORS")
    assert 'Name="gpio-keys"' in before and "acpid ends" not in before
    for console in first, second:
        assert "acpid ends this machine" in console and re.search(r": +2 +40044000.gpio +3 Edge +Power Button$", console, re.M), console  # pressed, released
