# stress-ng's own checks: $1 the stressor, $2 the seconds.
cd /tmp
stress-ng --"$1" 2 --verify --timeout "$2"s --metrics-brief --temp-path /tmp 2>&1 | tee /tmp/stress.log
grep -q 'successful run completed' /tmp/stress.log && ! grep -q "fail:" /tmp/stress.log || exit 1
echo "stress: $1 is right"
