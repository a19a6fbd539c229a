#!/bin/sh
# Make ca.pem, unless it exists, and for each NAME a certificate with its key in NAME.pem, which this authority has
# signed. Keep ca.key secret: whoever has it can make certificates.
#
#   sh mutual_tls_certificates.sh NAME...
set -eu
umask 077
new="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc"

if [ ! -e ca.pem ]; then
    openssl req -x509 $new -days 3650 -subj "/CN=Our authority" -keyout ca.key -out ca.pem 2>/dev/null
fi
for name; do
    openssl req $new -subj "/CN=$name" -keyout "$name.key" -out "$name.csr" 2>/dev/null
    printf 'basicConstraints=critical,CA:FALSE\nsubjectAltName=DNS:%s\n' "$name" >"$name.ext"
    openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca.key -days 90 -extfile "$name.ext" -out "$name.crt" 2>/dev/null
    cat "$name.crt" "$name.key" >"$name.pem"
    rm "$name.key" "$name.csr" "$name.ext" "$name.crt"
done
