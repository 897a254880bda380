'use strict';
// Owns the first step of `npm start` and `npm test`: it says what is missing on this machine before anything is tried,
// then runs the steps one after the other on the pinned Node and stops at the first that fails.
var spawnSync = require('child_process').spawnSync;
var path = require('path');
var pinned = require('./pinned.cjs');

var problems = pinned.missing();
if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(69);
}

var root = path.join(__dirname, '..');
var vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs');
var plans = {
  start: [[path.join(root, 'bin', 'steeple.cjs'), 'demo']],
  test: [
    [vitest, 'run'],
    [path.join(root, 'test', 'fuzz', 'run.ts'), '30'],
    [vitest, 'run', '--mode', 'process', 'test/scenario/join.process.test.ts'],
  ],
};

var plan = plans[process.argv[2]];
var node = pinned.findNode();
// Ctrl-C reaches the step through the terminal; this process waits for it to end in order.
process.on('SIGINT', function () {});
plan.forEach(function (step) {
  var result = spawnSync(node, step.concat(process.argv.slice(3)), { cwd: root, stdio: 'inherit' });
  if (result.status !== 0) process.exit(result.status === null ? 1 : result.status);
});
