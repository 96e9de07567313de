# zlib: more than 10000 lines of C, built by make and gcc -O2; its own tests say whether it was built right. Then a program with threads and faults.
set -e
cp -r /usr/src/zlib /tmp/zlib
cd /tmp/zlib
lines=$(cat *.c *.h test/*.c | wc -l)
[ "$lines" -ge 10000 ]
CFLAGS=-O2 ./configure >/dev/null
make -j2 >/dev/null
make test | tee /tmp/test.log
[ "$(grep -c 'zlib.*test OK' /tmp/test.log)" -ge 2 ]
gcc -O2 -o /tmp/check /tmp/check.c -lpthread -lm
/tmp/check
echo "compile: zlib's $lines lines are built and right"
