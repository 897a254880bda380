#!/usr/bin/env node
'use strict';
// Owns starting `steeple` on the Node it is pinned to, with the flags of the role; an old Node can parse this file.
// What the arguments mean is left to cli/main.
var childProcess = require('child_process');
var fs = require('fs');
var os = require('os');
var path = require('path');
var pinned = require('./pinned.cjs');

var problems = pinned.missing();
if (problems.length > 0) {
  console.error(problems.join('\n'));
  process.exit(69);
}

var args = process.argv.slice(2);
var role = args[1] === 'run' ? args[0] : '';
var env = Object.assign({}, process.env);
// A daemon that holds keys takes no flags, preloads or inspector from its surroundings.
if (role !== '') delete env.NODE_OPTIONS;

var source = path.join(__dirname, '..', 'cli', 'main.ts');
var entry = fs.existsSync(source) ? source : path.join(__dirname, '..', 'dist', 'cli', 'main.js');
// A small young generation halves the agent's memory and its longest pauses (docs/performance.md).
var flags = role === 'agent' ? ['--max-semi-space-size=1'] : [];
// And one arena of malloc saves a tenth of it: what its threads do at the same time allocates little.
if (role === 'agent' && env.MALLOC_ARENA_MAX === undefined) env.MALLOC_ARENA_MAX = '1';
var node = pinned.findNode();
var argv = flags.concat([entry], args);

if (typeof process.execve === 'function') {
  // Replacing this process keeps one pid for service managers; the call is marked experimental and would say so.
  process.emitWarning = function () {};
  process.execve(node, [node].concat(argv), env);
}

var child = childProcess.spawn(node, argv, { stdio: 'inherit', env: env });
['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR2'].forEach(function (name) {
  process.on(name, function () {
    // The terminal sends its own interrupt to the whole group; a second one is harmless there.
    child.kill(name);
  });
});
child.on('error', function (error) {
  console.error('steeple: ' + error.message);
  process.exit(71);
});
child.on('exit', function (code, signal) {
  process.exit(signal ? 128 + (os.constants.signals[signal] || 0) : code);
});
