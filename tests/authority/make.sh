#!/bin/sh
# Makes the certificates of the tests anew: an authority of nobody, and a server's certificate that it signed. Both are
# public, trusted nowhere but in the tests, and valid for a hundred years.
set -eu
cd "$(dirname "$0")"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -keyout ca.key -out ca.pem \
    -subj "/CN=m2n2-backend tests" -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=localhost
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\n' > server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 36500 -extfile server.ext -out server.crt
cat server.crt server.key > server.pem
rm -f -- *.0
cp ca.pem "$(openssl x509 -hash -noout -in ca.pem).0"   # as OpenSSL looks for it in a folder
rm -f ca.key ca.srl server.key server.csr server.ext server.crt
