# Regular expressions, hashes, sorting, closures, big numbers, packing, a child process.
use strict; use warnings; use Math::BigInt; use Digest::SHA qw(sha256_hex); use List::Util qw(sum reduce);
my %count;
$count{length $_}++ for map { my $s = ''; my $n = $_; while ($n) { $s .= chr(97 + $n % 26); $n = int($n / 26) } $s } 1 .. 100000;
die "lengths" unless $count{1} == 25 && $count{2} == 650 && $count{3} == 16900 && $count{4} == 82425;
my $f = Math::BigInt->new(1); $f *= $_ for 1 .. 200;
die "factorial" unless sha256_hex("$f") eq sha256_hex(Math::BigInt->new(200)->bfac->bstr) && length("$f") == 375;
my $text = join ' ', map { "k$_=" . $_ ** 2 } 1 .. 20000;
my $sum = 0; $sum += $1 while $text =~ /k\d+=(\d+)/g;
die "sum" unless $sum == 20000 * 20001 * 40001 / 6;
my @sorted = sort { $a <=> $b } map { ($_ * 7919) % 100003 } 1 .. 100002;
die "sort" unless $sorted[0] == 1 && $sorted[-1] == 100002 && !grep { $sorted[$_] != $_ + 1 } 0 .. 100001;
die "pack" unless unpack('H*', pack('nNvVd>', 1, 2, 3, 4, 1.5)) eq '000100000002030004000000' . '3ff8000000000000';
my $out = `perl -e 'print join ",", map { \$_ * 2 } 1 .. 5'`;
die "child: $out" unless $out eq '2,4,6,8,10';
print "check.pl: all is right\n";
