# Every cipher forth and back, digests of known text, keys made, used and refused, then speed.
set -e
cd /tmp
head -c 1000003 /dev/urandom >plain
n=0
for c in $(openssl list -1 -cipher-commands 2>/dev/null || openssl list -cipher-commands); do
	case $c in *wrap* | zlib | *ccm* | *gcm* | *ocb* | *siv* | base64) continue ;; esac
	openssl enc -"$c" -pbkdf2 -iter 10 -k husk -in plain -out sealed 2>/dev/null || continue # legacy provider
	openssl enc -d -"$c" -pbkdf2 -iter 10 -k husk -in sealed | cmp - plain
	n=$((n + 1))
done
[ $n -ge 20 ]
known() { [ "$(printf abc | openssl dgst -"$1" -r | cut -c1-"${#2}")" = "$2" ] || { echo "$1 of abc is wrong"; exit 1; }; }
known md5 900150983cd24fb0d6963f7d28e17f72
known sha1 a9993e364706816aba3e25717850c26c9cd0d89d
known sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
known sha512 ddaf35a193617abacc417349ae20413112e6fa4e89a97ea2
known sha3-256 3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532
known blake2b512 ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1
for key in "RSA -pkeyopt rsa_keygen_bits:2048" "EC -pkeyopt ec_paramgen_curve:P-256" "EC -pkeyopt ec_paramgen_curve:P-521" "EC -pkeyopt ec_paramgen_curve:secp256k1"; do
	openssl genpkey -algorithm $key -out key.pem 2>/dev/null
	openssl pkey -in key.pem -pubout -out pub.pem
	openssl dgst -sha256 -sign key.pem -out sig plain
	openssl dgst -sha256 -verify pub.pem -signature sig plain >/dev/null
	! openssl dgst -sha256 -verify pub.pem -signature sig sealed >/dev/null 2>&1
done
openssl genpkey -algorithm ED25519 -out key.pem
openssl pkeyutl -sign -rawin -inkey key.pem -in pub.pem -out sig
openssl pkeyutl -verify -rawin -inkey key.pem -in pub.pem -sigfile sig >/dev/null
for who in a b; do
	openssl genpkey -algorithm X25519 -out $who.pem
	openssl pkey -in $who.pem -pubout -out $who.pub
done
openssl pkeyutl -derive -inkey a.pem -peerkey b.pub -out s1
openssl pkeyutl -derive -inkey b.pem -peerkey a.pub -out s2
cmp s1 s2
openssl speed -seconds 1 -evp aes-256-gcm 2>&1 | tail -n 1
openssl speed -seconds 1 -evp sha256 2>&1 | tail -n 1
openssl speed -seconds 1 -evp chacha20-poly1305 2>&1 | tail -n 1
openssl speed -seconds 1 rsa2048 ecdsap256 2>&1 | grep -E '^ *rsa|ecdsa'
echo "openssl: $n ciphers, 6 digests, 5 signatures and an exchange are right"
