#!/bin/sh
# Makes serve_app/routes/docs_page/vendor: Swagger UI's script and style sheet as npm has them, packed by gzip.
# Needs npm and its registry; run it to take a newer version, then look at /docs and commit all three files.
set -eu
VERSION=${VERSION:-5.35.0}
vendor=$(cd "$(dirname "$0")/.." && pwd)/serve_app/routes/docs_page/vendor
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent "swagger-ui-dist@$VERSION" >/dev/null     # compares npm's own checksum; installs and runs nothing
tar -xzf "swagger-ui-dist-$VERSION.tgz"
cd package
for name in swagger-ui-bundle.js swagger-ui.css; do gzip --best --no-name --stdout "$name" >"$vendor/$name.gz"; done
{
	echo "swagger-ui-dist $VERSION, from npm by tools/vendor_swagger_ui.sh. SHA-256 of the files as npm has them:"
	echo
	sha256sum swagger-ui-bundle.js swagger-ui.css
	echo
	cat NOTICE
	echo
	echo "Licensed under the Apache License 2.0 (the text is in LICENSE at the root of this repository). The script also"
	echo "holds:"
	echo
	cat swagger-ui-bundle.js.LICENSE.txt
} >"$vendor/NOTICE"
cat "$vendor"/*.gz | wc -c
