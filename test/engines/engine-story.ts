/**
 * What must be true with any engine that speaks Docker's API: a server, an agent and a real engine, and containers that
 * ask for their SVIDs with go-spiffe. What only one engine does is in that engine's own file.
 */
import { mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cgroup2Directory, startEngine } from '../help/engine.ts';
import type { ContainerOptions, Engine, EngineName, EngineOptions, RunningContainer } from '../help/engine.ts';
import { createSite, freePort, trustDomain } from '../help/site.ts';
import type { AgentProcess, Site } from '../help/site.ts';
import { startRunning } from '../help/running.ts';
import type { OutputLine } from '../help/running.ts';
import { buildProgram } from '../interop/program.ts';

export interface Place {
  readonly engine: Engine;
  readonly site: Site;
  readonly agent: AgentProcess;
  /** The id that entries hang from. */
  readonly agentId: string;
  readonly program: string;
  /** What the image is called where it was made, and in selectors. */
  readonly image: string;
  /** Starts a container that watches for its SVIDs. */
  watch(options?: Partial<ContainerOptions>): RunningContainer;
  metric(name: string): Promise<number>;
}

/** The path part of each SVID in an update. */
export function pathsIn(line: OutputLine): readonly string[] {
  return (line['svids'] as { readonly id: string }[]).map(({ id }) => id.replace(`spiffe://${trustDomain}`, '')).toSorted();
}

export function updateWith(...paths: readonly string[]): (line: OutputLine) => boolean {
  return (line) => line.event === 'update' && String(pathsIn(line)) === String(paths);
}

export function refusal(line: OutputLine): boolean {
  return line.event === 'refused' && line['code'] === 'PermissionDenied';
}

export interface StoryOptions {
  readonly name: EngineName;
  /** What the engine makes of `steeple-test:one`. */
  readonly image: string;
  readonly engine?: EngineOptions;
}

export async function startPlace({ name, image, engine: engineOptions }: StoryOptions): Promise<Place & AsyncDisposable> {
  const ends = new AsyncDisposableStack();
  try {
    const program = buildProgram();
    const engine = ends.use(await startEngine(name, engineOptions));
    const site = ends.use(await createSite());
    await engine.image('steeple-test:one', program, 'ENV BAKED=yes', 'LABEL from=image');
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    const port = await freePort();
    const agent = await site.startAgent('agent', {
      token,
      config: `health: { address: 127.0.0.1, port: ${String(port)} }\nworkload: { docker: { engines: [{ socket_path: ${engine.socketPath} }] } }`,
    });
    await agent.until('sync.connected');
    const held = ends.move();
    return {
      engine,
      site,
      agent,
      agentId,
      program,
      image,
      watch: (options = {}) =>
        engine.run({
          image: 'steeple-test:one',
          args: ['watch', '-socket', 'unix:///spiffe/api.sock'],
          ...options,
          flags: ['-v', `${path.dirname(agent.socket)}:/spiffe:ro`, ...(options.flags ?? [])],
        }),
      async metric(which) {
        const text = await (await fetch(`http://127.0.0.1:${String(port)}/metrics`)).text();
        return Number(text.split('\n').find((line) => line.startsWith(`${which} `))?.split(' ')[1]);
      },
      [Symbol.asyncDispose]: () => held.disposeAsync(),
    };
  } finally {
    await ends.disposeAsync();
  }
}

export function describeEngine(options: StoryOptions, without: string | undefined, more: (place: () => Place) => void = () => undefined): void {
  const title = `containers of ${options.name}${options.engine?.cgroup2Only === true ? ' on cgroup v2 alone' : ''}`;
  describe.skipIf(without !== undefined)(without === undefined ? title : `${title} (${without})`, () => {
    let place: Place & AsyncDisposable;
    const patience = { timeout: 20_000, interval: 100 };

    beforeAll(async () => {
      place = await startPlace(options);
    });
    afterAll(async () => place?.[Symbol.asyncDispose]());

    it('get the SVIDs of the entries whose selectors are true of them, and no others', async () => {
      const { site, engine, agentId, image, watch } = place;
      const entry = (name: string, ...selectors: readonly string[]): object => {
        return { spiffeId: `spiffe://${trustDomain}${name}`, parentId: agentId, selectors };
      };
      const { stdout } = await engine.cli('image', 'inspect', '--format', '{{.Id}}', 'steeple-test:one');
      const digest = `sha256:${stdout.trim().replace(/^sha256:/, '')}`;
      const entries = [
        entry('/by-label', 'docker:label:app:web'),
        entry('/by-env', 'docker:env:STAGE=prod'),
        entry('/by-image', `docker:image_id:${image}`, 'docker:label:tier:front'),
        entry('/by-digest', `docker:image_config_digest:${digest}`, 'docker:label:tier:front'),
        entry('/by-all', 'docker:label:app:web', 'docker:env:STAGE=prod', `docker:image_id:${image}`, 'docker:label:from:image', 'docker:env:BAKED=yes'),
        entry('/by-another-label', 'docker:label:app:payments'),
        entry('/by-another-image', 'docker:image_id:steeple-test:two', 'docker:label:tier:front'),
      ];
      const file = path.join(site.directory, 'entries.json');
      writeFileSync(file, JSON.stringify({ entries }));
      await site.ask('entry', 'create', '--file', file);
      const web = watch({ flags: ['--label', 'app=web', '--env', 'STAGE=prod'] });
      const front = watch({ flags: ['--label', 'tier=front'] });
      expect(pathsIn(await web.until(updateWith('/by-all', '/by-env', '/by-label')))).toHaveLength(3);
      await front.until(updateWith('/by-digest', '/by-image'));
      await engine.cli('kill', web.name, front.name);
    });

    it('with other labels get nothing, nor does the same program of the same user outside', async () => {
      const { watch, site, program, agent } = place;
      const stranger = watch({ flags: ['--label', 'app=webb', '--label', 'app2=web', '--env', 'NOSTAGE=prod'] });
      await stranger.until(refusal);
      const host = site.own(startRunning([program, 'watch', '-socket', agent.endpoint]));
      await host.until(refusal);
      expect([...stranger.lines, ...host.lines].some(({ event }) => event === 'update')).toBe(false);
      await host.end();
      await place.engine.cli('kill', stranger.name);
    });

    it('of any user inside get them, and so does whoever is put into the container later', async () => {
      const { watch, engine } = place;
      const web = watch({ flags: ['--label', 'app=web', '--user', '4242:4242'] });
      await web.until(updateWith('/by-label'));
      const later = await engine.cli('exec', web.name, '/program', 'x509source', '-updates', '1', '-socket', 'unix:///spiffe/api.sock');
      expect(later.stdout).toContain(`spiffe://${trustDomain}/by-label`);
      await engine.cli('kill', web.name);
    });

    it('that are stopped have no stream any more', async () => {
      const { watch, engine, metric } = place;
      await expect.poll(() => metric('steeple_agent_streams'), patience).toBe(0);
      const web = watch({ flags: ['--label', 'app=web'] });
      await web.until(updateWith('/by-label'));
      const pid = await web.hostPid();
      expect(await metric('steeple_agent_streams')).toBeGreaterThan(0);
      await engine.cli('stop', '-t', '1', web.name);
      await web.exit;
      await expect.poll(() => metric('steeple_agent_streams'), patience).toBe(0);
      expect(() => process.kill(pid, 0)).toThrow('ESRCH');
    });

    it('cannot pass for another by what their mount table says', async () => {
      const { watch, engine, site } = place;
      const victim = watch({ flags: ['--label', 'app=web'] });
      await victim.until(updateWith('/by-label'));
      const id = await victim.id();
      // Paths as engines have them, with the victim's id, in every line that a container may have a say in.
      const folders = [`docker/containers/${id}`, `overlay-containers/${id}/userdata`, `libpod_parent/libpod-${id}`];
      const mounts = folders.flatMap((folder, at) => {
        const from = path.join(site.directory, folder);
        mkdirSync(from, { recursive: true });
        writeFileSync(path.join(from, 'hostname'), 'victim');
        return ['-v', `${from}/hostname:/etc/forged${String(at)}`, '-v', `${from}:/${folder}`];
      });
      const forger = watch({ flags: ['--label', 'app=forger', '--hostname', id.slice(0, 60), '--env', `container=${id}`, ...mounts] });
      await forger.until(refusal);
      expect(forger.lines.some(({ event }) => event === 'update')).toBe(false);
      await engine.cli('kill', forger.name, victim.name);
    });

    it('lose what they had once their control groups name a second container', async () => {
      const { watch, engine } = place;
      const victim = watch({ flags: ['--label', 'app=web'] });
      const forger = watch({ flags: ['--label', 'tier=front'] });
      await victim.until(updateWith('/by-label'));
      await forger.until(updateWith('/by-digest', '/by-image'));
      const [id, pid] = [await victim.id(), await forger.hostPid()];
      const from = forger.lines.length;
      const group = cgroup2Directory(pid);
      const inner = path.join(group, path.basename(path.dirname(group)), path.basename(group).replace(/[0-9a-f]{64}/, id));
      mkdirSync(inner, { recursive: true });
      writeFileSync(path.join(inner, 'cgroup.procs'), String(pid));
      // An event makes the agent look again at once.
      await engine.cli('rename', forger.name, `${forger.name}-renamed`);
      await forger.until(refusal, { from });
      expect(victim.lines.some(refusal)).toBe(false);
      writeFileSync(path.join(group, 'cgroup.procs'), String(pid));
      rmdirSync(inner);
      rmdirSync(path.dirname(inner));
      await forger.until(updateWith('/by-digest', '/by-image'), { from });
      await engine.cli('kill', `${forger.name}-renamed`, victim.name);
    });

    it('keep the digest of the image that they run when its name goes to another', async () => {
      const { watch, engine, program } = place;
      const old = watch({ flags: ['--label', 'tier=front'] });
      await old.until(updateWith('/by-digest', '/by-image'));
      await engine.image('steeple-test:one', program, 'LABEL from=elsewhere');
      await engine.cli('rename', old.name, `${old.name}-renamed`);
      const inside = await engine.cli('exec', `${old.name}-renamed`, '/program', 'watch', '-for', '2s', '-socket', 'unix:///spiffe/api.sock');
      expect(inside.stdout).toContain('/by-digest');
      expect(old.lines.some(refusal)).toBe(false);
      const young = watch({ flags: ['--label', 'tier=front'] });
      await young.until(updateWith('/by-image'));
      expect(young.lines.filter(({ event }) => event === 'update').flatMap(pathsIn)).not.toContain('/by-digest');
      await engine.cli('kill', `${old.name}-renamed`, young.name);
    });

    more(() => place);
  });
}
