/**
 * What else the kernel says of a process: its ancestors, the file it runs, its control group, namespaces and rights, and who
 * logged in. Every selector, what it tells and what it does not, is in `docs/selectors.md`; ids and names are `unix.ts`.
 *
 * Nothing is looked at unless an entry asks for that kind of selector. A fact that cannot be had is left out with its
 * reason, and costs the others nothing.
 */
import { readFileSync } from 'node:fs';
import type { Clock } from '../../../runtime/clock.ts';
import type { Peer } from '../../../runtime/peer.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { composeSelector } from '../../../spiffe/selector.ts';
import type { Selector } from '../../../spiffe/selector.ts';
import type { CgroupLine } from '../cgroup.ts';
import { readCgroups } from '../cgroup.ts';
import type { Omit, WorkloadAttestor } from '../attestor.ts';
import { ancestryOf } from './process-ancestors.ts';
import { malformed, plainText, readProcessFile, readProcessLink } from './process-file.ts';
import { hostPathOf, writableBecause } from './process-image.ts';
import { createNamespaces, namespaceKinds } from './process-namespace.ts';
import type { Namespaces } from './process-namespace.ts';
import { scriptOf } from './process-script.ts';
import { capabilityNames, isTraced, readStatus } from './process-status.ts';
import { createImageHashes } from './unix-hash.ts';
import type { ImageHashes } from './unix-hash.ts';

export interface ProcessAttestorOptions {
  readonly clock: Clock;
  /** Shared with the `unix` attestor, so that an image is hashed once; its owner stops it. */
  readonly hashes?: ImageHashes;
  /** Without `hashes`: larger executables get no digest. */
  readonly hashLimitBytes?: number;
}

/** Stop it to end the thread that hashes, if it has one of its own. */
export interface ProcessAttestor extends WorkloadAttestor {
  stop(): Promise<void>;
}

/** Values without their `process:<kind>:`, established now. */
type Fact = (peer: Peer, context: FactContext) => readonly string[] | Promise<readonly string[]>;

interface FactContext {
  readonly namespaces: Namespaces;
  readonly hashes: ImageHashes;
  /** Whether this program sees every id of the host as itself. */
  readonly sameIds: boolean;
  readonly omit: Omit;
}

/** By kind, in the order of `docs/selectors.md`. */
const facts: Readonly<Record<string, Fact>> = {
  parent: (peer, context) => ancestorPaths(peer, context, 'parent', 1),
  ancestor: (peer, context) => ancestorPaths(peer, context, 'ancestor'),
  image: imageFacts,
  interpreter: interpreterFact,
  script: scriptFacts,
  cgroup: cgroupPaths,
  namespace: namespaceFacts,
  capability: capabilityFacts,
  seccomp: ({ pid }, { omit }) => known('process:seccomp', readStatus(pid).seccomp, omit),
  'no-new-privs': ({ pid }, { omit }) => known('process:no-new-privs', readStatus(pid).noNewPrivs, omit),
  traced: tracedFact,
  loginuid: ({ pid }, { sameIds, omit }) => (sameIds ? [auditId(pid, 'loginuid')] : missing('process:loginuid', 'process.ids.unmapped', omit)),
  session: ({ pid }) => [auditId(pid, 'sessionid')],
};

export function createProcessAttestor(options: ProcessAttestorOptions): ProcessAttestor {
  const { clock, hashLimitBytes } = options;
  const hashes = options.hashes ?? createImageHashes({ clock, ...(hashLimitBytes === undefined ? {} : { limitBytes: hashLimitBytes }) });
  const namespaces = createNamespaces();
  const sameIds = seesAllIds();
  return {
    name: 'process',
    attest: async (peer, { wanted, omit }) => {
      const selectors: Selector[] = [];
      for (const [kind, fact] of Object.entries(facts)) {
        if (!wanted.asks(`process:${kind}:`)) continue;
        const values = await establish(fact, peer, { namespaces, hashes, sameIds, omit }, `process:${kind}`);
        for (const value of values) selectors.push(composeSelector('process', `${kind}:${value}`));
      }
      return selectors;
    },
    stop: async () => {
      if (options.hashes === undefined) await hashes.stop();
    },
  };
}

async function establish(fact: Fact, peer: Peer, context: FactContext, what: string): Promise<readonly string[]> {
  try {
    return await fact(peer, context);
  } catch (error) {
    if (!(error instanceof SpiffeError)) throw error;
    return missing(what, error.reason, context.omit);
  }
}

function missing(what: string, reason: string, omit: Omit): readonly string[] {
  omit(what, reason);
  return [];
}

function known(what: string, value: string | boolean | undefined, omit: Omit): readonly string[] {
  return value === undefined ? missing(what, 'process.unsupported', omit) : [String(value)];
}

function ancestorPaths(peer: Peer, { namespaces, omit }: FactContext, kind: string, depth?: number): readonly string[] {
  const what = `process:${kind}:path`;
  const look = (pid: number): ReturnType<typeof hostPathOf> => {
    try {
      return hostPathOf(pid, namespaces);
    } catch (error) {
      if (error instanceof SpiffeError) return { reason: error.reason };
      throw error;
    }
  };
  const { ancestors, reason } = ancestryOf(peer.pid, look, depth === undefined ? {} : { depth });
  for (const fault of new Set(ancestors.flatMap((one) => ('reason' in one ? [one.reason] : [])))) omit(what, fault);
  if (reason !== undefined) omit(what, reason);
  return [...new Set(ancestors.flatMap((one) => ('path' in one ? [`path:${one.path}`] : [])))];
}

async function imageFacts(peer: Peer, { hashes, omit }: FactContext): Promise<readonly string[]> {
  const values: string[] = [];
  const answer = await hashes.of(peer);
  if ('sha256' in answer) values.push(`sha256:${answer.sha256}`);
  else omit('process:image:sha256', answer.reason, answer.until);
  const because = writableBecause(peer, readStatus(peer.pid));
  if (because === undefined) values.push('writable:false');
  else omit('process:image:writable', because);
  return values;
}

function interpreterFact(peer: Peer, { omit }: FactContext): readonly string[] {
  const script = scriptOf(peer);
  if ('reason' in script) return missing('process:interpreter', script.reason, omit);
  const path = plainText(readProcessLink(peer.pid, 'exe'));
  return path?.startsWith('/') === true ? [path] : missing('process:interpreter', 'process.path.text', omit);
}

function scriptFacts(peer: Peer, { omit }: FactContext): readonly string[] {
  const script = scriptOf(peer);
  return 'reason' in script ? missing('process:script', script.reason, omit) : [script.path, `sha256:${script.sha256}`];
}

/** In the hierarchy that systemd keeps its units in: cgroup v2, `name=systemd` of v1, or both of a hybrid. */
function cgroupPaths({ pid }: Peer, { omit }: FactContext): readonly string[] {
  const isOfUnits = ({ hierarchy, controllers }: CgroupLine): boolean => hierarchy === 0 || controllers === 'name=systemd';
  const paths = new Set(readCgroups(pid).filter(isOfUnits).map(({ path }) => path));
  return [...paths].filter((path) => {
    const reason = path.startsWith('/..') ? 'process.cgroup.outside' : /[\p{Cc}\u2028\u2029\uFFFD]/u.test(path) ? 'process.cgroup.text' : undefined;
    if (reason !== undefined) omit('process:cgroup', reason);
    return reason === undefined;
  });
}

function namespaceFacts({ pid }: Peer, { namespaces, omit }: FactContext): readonly string[] {
  return namespaceKinds.flatMap((kind) => {
    try {
      const inode = namespaces.of(pid, kind);
      return inode === namespaces.host(kind) ? [`${kind}:host`, `${kind}:${inode}`] : [`${kind}:${inode}`];
    } catch (error) {
      if (error instanceof SpiffeError) return missing(`process:namespace:${kind}`, error.reason, omit);
      throw error;
    }
  });
}

/** Those of another user namespace are worth nothing outside of it, and any user may make one. */
function capabilityFacts({ pid }: Peer, { namespaces, omit }: FactContext): readonly string[] {
  const { effective, permitted } = readStatus(pid);
  if (effective === 0n && permitted === 0n) return ['none'];
  if (!namespaces.isHost(pid, 'user')) return missing('process:capability', 'process.capability.namespace', omit);
  return capabilityNames(effective).map((name) => `effective:${name}`);
}

const INITIAL_PID_NAMESPACE = '4026531836';

async function tracedFact({ pid }: Peer, { namespaces, omit }: FactContext): Promise<readonly string[]> {
  if (await isTraced(pid)) return ['true'];
  // A tracer from outside of our own pid namespace has no number here, which reads like none.
  if (namespaces.host('pid') !== INITIAL_PID_NAMESPACE) return missing('process:traced', 'process.traced.namespace', omit);
  return ['false'];
}

const UNSET = 0xffff_ffff;

function auditId(pid: number, file: 'loginuid' | 'sessionid'): string {
  const text = readProcessFile(pid, file).toString('latin1').trim();
  const id = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (!(id <= UNSET)) throw malformed();
  return id === UNSET ? 'unset' : String(id);
}

function seesAllIds(): boolean {
  return /^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'utf8'));
}
