/**
 * Engines that a user runs, with users and control groups as a machine with systemd has them: real ones, made by the test
 * as root. The engine is a stand-in, because a real one needs a user's own service manager.
 */
import { chownSync, copyFileSync, existsSync, mkdirSync, rmdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '../help/engine-api.ts';
import { startRunning } from '../help/running.ts';
import type { Running } from '../help/running.ts';
import { createSite, node } from '../help/site.ts';
import type { AgentProcess, Site } from '../help/site.ts';
import { buildProgram, withoutGo } from '../interop/program.ts';
import { refusal, updateWith } from './engine-story.ts';

const owner = 4242;
const other = 4343;
const host = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'help', 'engine-api-host.ts');
const root = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup'].find((one) => existsSync(path.join(one, 'cgroup.controllers')));
const without = withoutGo ?? (process.env['CI'] !== undefined ? undefined : reason());

function reason(): string | undefined {
  if (process.geteuid?.() !== 0) return 'skipped: makes control groups and users’ processes, which needs root';
  return root === undefined ? 'skipped: no hierarchy of cgroup v2 is mounted' : undefined;
}

/** @returns whether it is gone */
function remove(one: string): boolean {
  try {
    rmdirSync(one);
    return true;
  } catch {
    return !existsSync(one);
  }
}

describe.skipIf(without !== undefined)(`containers of users’ engines${without === undefined ? '' : ` (${without})`}`, () => {
  const id = newId();
  const made: string[] = [];
  let site: Site;
  let agent: AgentProcess;
  let program: string;

  /** A group below the root, made with all above it. */
  function group(...names: readonly string[]): string {
    let at = root ?? '';
    for (const name of names) {
      at = path.join(at, name);
      if (existsSync(at)) continue;
      mkdirSync(at);
      made.push(at);
    }
    return at;
  }
  const ofUser = (uid: number): string =>
    group('user.slice', `user-${String(uid)}.slice`, `user@${String(uid)}.service`, 'user.slice', `libpod-${id}.scope`);

  /** A process of `uid` that is in a group before it connects. */
  function watch(uid: number, inside: string): Running {
    const script = 'echo $$ > "$1/cgroup.procs"; shift; exec setpriv --reuid "$1" --regid "$1" --clear-groups "$2" watch -socket "$3"';
    return site.own(startRunning(['sh', '-c', script, 'sh', inside, String(uid), program, agent.endpoint]));
  }
  async function engineOf(uid: number, label: string): Promise<string> {
    const folder = path.join(site.directory, `engine-${String(uid)}`);
    mkdirSync(folder);
    chownSync(folder, uid, uid);
    const container = { Id: id, Config: { Image: 'any', Labels: { app: label } } };
    const engine = site.own(startRunning([node, host, `${folder}/podman.sock`, JSON.stringify(container)], { uid, gid: uid }));
    await engine.until('ready');
    return `${folder}/podman.sock`;
  }

  beforeAll(async () => {
    site = await createSite();
    program = path.join(site.directory, 'program');
    copyFileSync(buildProgram(), program);
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    const engines = [`{ socket_path: ${await engineOf(owner, 'mine')}, owner_uid: ${String(owner)} }`];
    await engineOf(other, 'payments');
    agent = await site.startAgent('agent', { token, config: `workload: { docker: { engines: [${engines.join(', ')}] } }` });
    await agent.until('sync.connected');
    await site.entry({ path: '/mine', parent: agentId, selectors: ['docker:label:app:mine'] });
    await site.entry({ path: '/payments', parent: agentId, selectors: ['docker:label:app:payments'] });
  });
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    // A group is let go a moment after the last process in it.
    for (const one of made.toReversed()) {
      for (let wait = 0; !remove(one) && wait < 100; wait += 1) await new Promise((resolve) => setTimeout(resolve, 20));
    }
    expect(made.filter((one) => existsSync(one))).toEqual([]);
  });

  it('get what the listed user’s engine says, running as that user in that user’s groups', async () => {
    const mine = watch(owner, ofUser(owner));
    await mine.until(updateWith('/mine'));
    await mine.end('SIGKILL');
  });

  it.each([
    ['as another user in the same container', () => watch(other, ofUser(owner))],
    ['as root in the same container', () => watch(0, ofUser(owner))],
    ['in the container of a user who is not listed, whatever that user’s engine says', () => watch(other, ofUser(other))],
    ['of the listed user in a group of the system’s with the same id', () => watch(owner, group('libpod_parent', `libpod-${id}`))],
    ['of the listed user in no container', () => watch(owner, root ?? '')],
  ])('get nothing %s', async (_what, start) => {
    const running = start();
    await running.until(refusal);
    expect(running.lines.some(({ event }) => event === 'update')).toBe(false);
    await running.end('SIGKILL');
  });
});
