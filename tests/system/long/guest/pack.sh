# 200 MiB, half of it random, half of it text, through the packers; checksums.
set -e
cd /tmp
{ head -c 104857600 /dev/urandom; tar -C / -cf - usr/include usr/lib/python3.11 usr/share 2>/dev/null | head -c 104857600; } >plain
[ "$(stat -c %s plain)" = 209715200 ]
sum=$(sha256sum <plain)
for how in "gzip -1" "gzip -6" "xz -0 -T2" "zstd -3" "zstd -T2 -9"; do
	$how -c <plain >packed
	[ "$(${how%% *} -dc <packed | sha256sum)" = "$sum" ] || { echo "$how: another checksum"; exit 1; }
	echo "$how: $(stat -c %s packed) bytes"
	${how%% *} -t packed
done
echo "pack: five round trips of 200 MiB kept $sum"
