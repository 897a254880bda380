'use strict';
// Owns finding the Node that this package pins, and saying what is missing when there is none. Written so that an old
// Node can parse it; what is run on the found Node is left to the callers.
var fs = require('fs');
var path = require('path');
var spawnSync = require('child_process').spawnSync;

// As runtime/floor.ts has it: what is older lacks security fixes that are relied on.
var needed = [24, 14, 1];
var neededText = needed.join('.');

function isNewEnough(version) {
  var parts = version.split('.').map(Number);
  for (var i = 0; i < needed.length; i += 1) {
    if (parts[i] !== needed[i]) return parts[i] > needed[i];
  }
  return true;
}

/** Absolute path of the pinned Node, of the running one when it is new enough, or null. */
function findNode() {
  try {
    var manifest = require.resolve('node-linux-' + process.arch + '/package.json', { paths: [__dirname] });
    var file = path.join(path.dirname(manifest), 'bin', 'node');
    fs.accessSync(file, fs.constants.X_OK);
    return file;
  } catch (error) {
    void error;
    return isNewEnough(process.versions.node) ? process.execPath : null;
  }
}

/** Sentences naming what keeps Steeple from running here; empty when nothing does. */
function missing() {
  var problems = [];
  if (process.platform !== 'linux') {
    problems.push('Steeple needs Linux: it asks the kernel who calls. This is ' + process.platform + '. Use a Linux machine, VM or container.');
    return problems;
  }
  if (process.arch !== 'x64' && process.arch !== 'arm64') {
    problems.push('Steeple is built for x64 and arm64. This is ' + process.arch + '.');
    return problems;
  }
  var node = findNode();
  if (node === null) {
    problems.push(
      'Steeple runs on Node ' + neededText + ' or newer; this is ' + process.version + ' and the pinned one is not installed. ' +
        'Run "npm ci" without --omit=optional, or install Node ' + neededText + ' or newer.'
    );
    return problems;
  }
  var probe = spawnSync(node, ['--version'], { encoding: 'utf8' });
  if (probe.status !== 0) {
    problems.push(
      'The pinned Node does not start here (' + String((probe.error && probe.error.message) || probe.stderr).trim() + '). ' +
        'It is built for glibc; on musl (Alpine) install Node ' + neededText + ' or newer from the distribution and run "npm ci --omit=optional".'
    );
  }
  return problems;
}

exports.findNode = findNode;
exports.missing = missing;
