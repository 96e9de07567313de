# Python's own tests. Those that need a network, a display or minutes are left out.
cd /tmp
export HOME=/tmp
exec python3 -m test -j2 --timeout 1800 $(cat /tmp/python.list)
