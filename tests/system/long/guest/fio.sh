# Writes that are read back and compared, through each way into the block device.
set -e
for engine in psync libaio io_uring; do
	fio --name=verify --filename=/dev/vdc --size=128M --bs=4k,64k --bsrange=4k-64k --rw=randwrite --ioengine=$engine --iodepth=16 --direct=1 \
		--verify=crc32c --do_verify=1 --verify_fatal=1 --verify_backlog=512 --output=/tmp/fio.log || { cat /tmp/fio.log; exit 1; }
	grep -E 'err= 0' /tmp/fio.log
	! grep -E 'verify: bad|err= *[1-9]' /tmp/fio.log
done
echo "fio: three engines read what they had written"
