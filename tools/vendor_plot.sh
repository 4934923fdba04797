#!/bin/sh
# Makes training/reports/vendor/plot.js: the parts of Observable Plot and D3 that the reports draw with, in one file.
# Needs Node.js and npm's registry; run it to take a newer version, then look at a report and commit both.
set -eu
PLOT=${PLOT:-0.6.17} D3=${D3:-7.9.2} ESBUILD=0.28.2
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund "@observablehq/plot@$PLOT" "d3@$D3" "esbuild@$ESBUILD"
cat >entry.js <<'JS'
export {barX, cell, dot, line, plot, pointer, pointerX, pointerY, ruleX, text, tickX, tip} from "@observablehq/plot";
JS
npx esbuild entry.js --bundle --minify --format=iife --global-name=Plot --charset=utf8 --metafile=made.json --outfile=plot.js --log-level=warning
node - <<'JS' >"$here/training/reports/vendor/plot.js"
const fs = require("fs");
const inputs = Object.values(JSON.parse(fs.readFileSync("made.json")).outputs).flatMap(made =>
  Object.entries(made.inputs).filter(([, of]) => of.bytesInOutput > 0).map(([path]) => path));
const packages = [...new Set(inputs.map(path => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1]).filter(Boolean))].sort();
const named = packages.map(name => `${name} ${require(`./node_modules/${name}/package.json`).version}`);
const texts = new Map();  // licence without its copyright lines: who gave it
for (const name of packages) {
  const file = fs.readdirSync(`node_modules/${name}`).find(entry => /^licen[cs]e/i.test(entry));
  const lines = fs.readFileSync(`node_modules/${name}/${file}`, "utf8").trim().split("\n").map(line => line.trim());
  const [head, rest] = [lines.filter(line => /^Copyright/.test(line)), lines.filter(line => !/^Copyright/.test(line))];
  const text = rest.join("\n").replace(/\n{3,}/g, "\n\n").trim();
  texts.set(text, [...(texts.get(text) ?? []), ...head]);
}
const notices = [...texts].map(([text, holders]) => `${[...new Set(holders)].sort().join("\n")}\n\n${text}`).join("\n\n");
console.log(`/* ${named.join(", ")}.\nMade by tools/vendor_plot.sh with esbuild; the licences:\n\n${notices}\n*/`);
process.stdout.write(fs.readFileSync("plot.js", "utf8"));
JS
cat "$here/training/reports/vendor/plot.js" | wc -c
