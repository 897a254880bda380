/**
 * The least a daemon stands on: a Node with the security fixes it relies on, and no debugger that could read its keys.
 * Finding such a Node is the launcher's.
 */
import { SpiffeError } from '../spiffe/errors.ts';

/** First releases with the HTTP/2 and TLS fixes of early 2026, by major version; later majors have them all. */
const fixedReleases: Readonly<Record<number, readonly [number, number]>> = { 24: [14, 1] };
const oldestMajor = 24;

/** What the process was started with. */
export interface Footing {
  /** Such as `24.21.0`. */
  readonly version: string;
  readonly execArgv: readonly string[];
  /** The address a debugger would connect to. */
  readonly inspectorUrl: string | undefined;
}

/**
 * @throws unsupported `floor.node`, denied `floor.inspector`
 */
export function checkFooting({ version, execArgv, inspectorUrl }: Footing): void {
  const [major = 0, minor = 0, patch = 0] = version.split('.').map(Number);
  const [fixedMinor, fixedPatch] = fixedReleases[major] ?? [0, 0];
  const isFixed = minor > fixedMinor || (minor === fixedMinor && patch >= fixedPatch);
  // In this form text that is no number is refused too.
  if (!(major >= oldestMajor && isFixed)) {
    throw new SpiffeError('unsupported', 'floor.node', `Node ${version} lacks security fixes that are relied on; Node 24.14.1 or newer is needed`);
  }
  if (inspectorUrl !== undefined || execArgv.some((flag) => flag.startsWith('--inspect'))) {
    throw new SpiffeError('denied', 'floor.inspector', 'a debugger could read the keys: start without --inspect');
  }
}
