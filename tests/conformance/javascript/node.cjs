// Reads a task from standard input, and writes the answers to standard output.

const { readFileSync } = require('node:fs')
const { run } = require('./calls.cjs')

run(JSON.parse(readFileSync(0, 'utf8'))).then((answers) => process.stdout.write(JSON.stringify(answers)))
