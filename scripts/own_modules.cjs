// Node runs this first (--require), so that it loads no package of another user. Node looks for a
// package in all directories above, also for an optional one that is not installed. In a clone
// below /tmp, another user may have created /tmp/node_modules.
const { statSync } = require("node:fs");
const Module = require("node:module");
const { dirname } = require("node:path");

const inherited = Module._nodeModulePaths;
Module._nodeModulePaths = (from) => inherited(from).filter(isOwn);

/** Returns whether only root and this user can create a directory for packages. */
function isOwn(path) {
  try {
    const { uid, mode } = statSync(dirname(path));
    return (uid === 0 || uid === process.getuid()) && (mode & 0o002) === 0;
  } catch {
    return false;
  }
}
