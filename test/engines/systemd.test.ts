/**
 * A real systemd, a real dbus-daemon, units of every kind that matters, and a server and an agent beside them: processes
 * get identities by the unit they are in, and none by one they made up.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseLine, startRunning } from '../help/running.ts';
import type { OutputLine, Running } from '../help/running.ts';
import { createSite, node, trustDomain } from '../help/site.ts';
import type { Site } from '../help/site.ts';
import { busSocket, eventually, privateSocket, startSystemd, withoutSystemd } from '../help/systemd.ts';
import type { RealSystemd } from '../help/systemd.ts';

const here = path.dirname(fileURLToPath(import.meta.url));
const asker = path.join(here, '..', 'help', 'systemd-asker.ts');

/** Whoever is delegated a group makes what it likes below it, here a service of its own. */
const forging = (name: string, then: string): string => `[Unit]
DefaultDependencies=no
[Service]
Delegate=yes
ExecStart=/bin/sh -c 'v2=$(sed -n "s/^0:://p" /proc/self/cgroup); v1=$(sed -n "s/^[0-9]*:name=systemd://p" /proc/self/cgroup); \\
  for at in /sys/fs/cgroup$v2 /sys/fs/cgroup/unified$v2 /sys/fs/cgroup/systemd$v1; do \\
  if [ -f $at/cgroup.procs ]; then mkdir -p $at/${name}; echo $$$$ > $at/${name}/cgroup.procs || true; fi; done; ${then}'
`;

const sleeping = (more = ''): string => `[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 600\n${more}`;

interface Answer {
  readonly selectors?: readonly string[];
  readonly reason?: string;
}

describe.skipIf(withoutSystemd !== undefined)(`units of a real systemd ${withoutSystemd ?? ''}`, () => {
  let systemd: RealSystemd;
  beforeAll(async () => {
    systemd = await startSystemd();
    await systemd.unit('nginx.service', sleeping());
    await systemd.unit('odd@.service', sleeping('Slice=tenant-a.slice\n'));
    await systemd.unit('cpu.service', sleeping());
    await systemd.unit('_under.service', sleeping());
    await systemd.unit('user@1000.service', forging('nginx.service', 'exec sleep 600'));
    await systemd.systemctl('daemon-reload');
    await systemd.systemctl('start', 'nginx.service', 'odd@a\\x2db:c.service', 'cpu.service', '_under.service', 'user@1000.service', 'dbus.service');
  });
  afterAll(async () => systemd?.[Symbol.asyncDispose]());

  describe.each([
    ['bus', busSocket],
    ['private', privateSocket],
  ])('asked on its %s socket', (type, socketPath) => {
    let running: Running;
    let asked = 0;
    beforeAll(() => {
      running = startRunning(systemd.inside(node, asker, type, socketPath));
    });
    afterAll(async () => leave(running));

    async function ask(...pids: readonly number[]): Promise<readonly Answer[]> {
      running.child.stdin?.write(`${pids.join(' ')}\n`);
      asked += 1;
      let seen = 0;
      const line = await running.until((one) => one.event === 'answers' && (seen += 1) === asked);
      return line['answers'] as readonly Answer[];
    }

    it('services are told by their ids, files and slices', async () => {
      const names = ['nginx.service', 'odd@a\\x2db:c.service', 'cpu.service', '_under.service', 'dbus.service'];
      const answers = await ask(...(await Promise.all(names.map((name) => systemd.mainPid(name)))));
      const of = (id: string, file: string, ...slices: readonly string[]): Answer => ({
        selectors: [`systemd:id:${id}`, `systemd:fragment_path:${systemd.units}/${file}`, ...slices.map((slice) => `systemd:slice:${slice}`)],
      });
      expect(answers).toEqual([
        of('nginx.service', 'nginx.service', 'system.slice'),
        of('odd@a\\x2db:c.service', 'odd@.service', 'tenant.slice', 'tenant-a.slice'),
        of('cpu.service', 'cpu.service', 'system.slice'),
        of('_under.service', '_under.service', 'system.slice'),
        of('dbus.service', 'dbus.service', 'system.slice'),
      ]);
    });

    it('itself is in a scope without a file', async () => {
      expect(await ask(1)).toEqual([{ selectors: ['systemd:id:init.scope', 'systemd:fragment_path:'] }]);
    });

    it('T-A07 a group that a service made up below itself is the service’s', async () => {
      const pid = await systemd.mainPid('user@1000.service');
      const groups = await eventually('the group is made', async () => {
        const { stdout } = await systemd.run('cat', `/proc/${String(pid)}/cgroup`);
        return stdout.includes('/user@1000.service/nginx.service') ? stdout : undefined;
      });
      expect(groups).toContain('/system.slice/system-user.slice/user@1000.service/nginx.service\n');
      const [answer] = await ask(pid);
      expect(answer?.selectors?.[0]).toBe('systemd:id:user@1000.service');
    });

    it('a transient scope is told by its id and file', async () => {
      const name = `once-${type}.scope`;
      const scope = startRunning(systemd.inside('systemd-run', '--quiet', '--scope', `--unit=${name}`, 'sh', '-c', 'echo "{\\"event\\":\\"up\\",\\"pid\\":$$}"; read line'));
      const pid = Number((await scope.until('up'))['pid']);
      expect(await ask(pid)).toEqual([
        { selectors: [`systemd:id:${name}`, `systemd:fragment_path:/run/systemd/transient/${name}`, 'systemd:slice:system.slice'] },
      ]);
      await systemd.systemctl('stop', name);
      await scope.exit;
    });

    it('five hundred at once are all answered', async () => {
      const pid = await systemd.mainPid('nginx.service');
      const answers = await ask(...Array.from({ length: 500 }, () => pid));
      expect(new Set(answers.map(({ selectors }) => selectors?.[0]))).toEqual(new Set(['systemd:id:nginx.service']));
    });

    it('a reload tells of a unit’s new file', async () => {
      const unit = `moved-${type}.service`;
      await systemd.unit(unit, sleeping());
      await systemd.systemctl('daemon-reload');
      await systemd.systemctl('start', unit);
      const pid = await systemd.mainPid(unit);
      const fileIn = (directory: string): string => `systemd:fragment_path:${directory}/${unit}`;
      expect((await ask(pid))[0]?.selectors?.[1]).toBe(fileIn(systemd.units));
      const from = running.lines.length;
      await systemd.unit(unit, sleeping(), systemd.overrides);
      await systemd.systemctl('daemon-reload');
      await running.until('changed', { from });
      expect((await ask(pid))[0]?.selectors?.[1]).toBe(fileIn(systemd.overrides));
    });

    it('when it executes itself anew, it is found anew', async () => {
      const pid = await systemd.mainPid('nginx.service');
      await ask(pid);
      const from = running.lines.length;
      await systemd.systemctl('daemon-reexec');
      await running.until('changed', { from });
      await eventually('it answers again', async () => {
        const [answer] = await ask(pid);
        return answer?.selectors?.[0] === 'systemd:id:nginx.service' ? true : undefined;
      });
    });
  });

  describe('another bus', () => {
    async function answerOn(user: string): Promise<unknown> {
      const socketPath = path.join(systemd.directory, user, 'bus');
      await systemd.run('install', '-d', '-o', user, path.dirname(socketPath));
      const policy = '<policy context="default"><allow user="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/></policy>';
      await systemd.unit(`${user}.conf`, `<busconfig><listen>unix:path=${socketPath}</listen>${policy}</busconfig>\n`, systemd.directory);
      const command = `dbus-daemon --nofork --nopidfile --config-file=${systemd.directory}/${user}.conf`;
      await systemd.unit(`bus-of-${user}.service`, `[Unit]\nDefaultDependencies=no\n[Service]\nUser=${user}\nExecStart=${command}\n`);
      await systemd.systemctl('daemon-reload');
      await systemd.systemctl('start', `bus-of-${user}.service`);
      await eventually('the bus listens', async () => ((await systemd.run('test', '-S', socketPath)).code === 0 ? true : undefined));
      const running = startRunning(systemd.inside(node, asker, 'bus', socketPath));
      running.child.stdin?.write('1\n');
      const line = await running.until('answers');
      await leave(running);
      return line['answers'];
    }

    it('T-A14 that another user runs is not asked', async () => {
      expect(await answerOn('nobody')).toMatchObject([{ reason: 'dbus.untrusted', detail: { uid: 65_534 } }]);
    });

    it('that systemd is not on says so', async () => {
      expect(await answerOn('root')).toMatchObject([{ reason: 'systemd.absent' }]);
    });
  });

  describe('with an agent that is one of them', () => {
    let site: Site;
    beforeAll(async () => {
      site = await createSite();
      await site.startServer();
      await site.writeBundle();
      const { token, agentId } = await site.token();
      const entry = (name: string, ...selectors: readonly string[]): Promise<string> => site.entry({ path: name, parent: agentId, selectors });
      await entry('/web', 'systemd:id:web.service', 'systemd:slice:system.slice', 'unix:uid:0');
      await entry('/web-as-installed', 'systemd:id:web.service', `systemd:fragment_path:${systemd.units}/web.service`);
      await entry('/web-overridden', 'systemd:id:web.service', `systemd:fragment_path:${systemd.overrides}/web.service`);
      const base = path.join(site.directory, 'agent');
      await mkdir(base);
      await writeFile(
        path.join(base, 'agent.yaml'),
        `trust_domain: ${trustDomain}
server: { address: 127.0.0.1, port: ${String(site.port)} }
data_dir: ${base}/data
socket_path: ${base}/public/api.sock
admin_socket_path: ${base}/private/admin.sock
trust_bundle: { path: ${site.bundleFile} }
attestor: { type: join_token, token: ${token} }
workload: { systemd: {} }
`,
        { mode: 0o600 },
      );
      const bin = path.join(here, '..', '..', 'bin', 'steeple.cjs');
      await systemd.unit('agent.service', `[Unit]\nDefaultDependencies=no\n[Service]\nStandardOutput=append:${base}/out\nExecStart=${node} ${bin} agent run --config ${base}/agent.yaml\n`);
      await systemd.systemctl('daemon-reload');
      await systemd.systemctl('start', 'agent.service');
      await eventually('the agent is connected', async () => ((await readFile(path.join(base, 'out'), 'utf8')).includes('sync.connected') ? true : undefined));
    });
    afterAll(async () => {
      await systemd.systemctl('kill', '--signal=KILL', 'agent.service');
      await site?.[Symbol.asyncDispose]();
    });

    /** A unit that has one stream open for as long as it gets something. */
    const streaming = (make: (command: string) => string): string =>
      make(`sleep 600 | ${node} ${path.join(here, '..', 'help', 'workload.ts')} stream`).replace(
        '[Service]',
        `[Service]\nEnvironment=SPIFFE_ENDPOINT_SOCKET=unix://${site.directory}/agent/public/api.sock\nStandardOutput=append:${site.directory}/%n.out`,
      );
    const plain = (command: string): string => `[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sh -c '${command}'\n`;

    async function start(name: string, text: string): Promise<void> {
      await systemd.unit(name, text);
      await systemd.systemctl('daemon-reload');
      await systemd.systemctl('start', name);
    }
    async function says(name: string, matches: (line: OutputLine) => boolean): Promise<OutputLine> {
      return eventually(`${name} says so`, async () => {
        const text = await readFile(path.join(site.directory, `${name}.out`), 'utf8');
        return text
          .split('\n')
          .map(parseLine)
          .find((line) => line !== undefined && matches(line));
      });
    }
    const svids = (...paths: readonly string[]) => ({ event, svids: list }: OutputLine): boolean =>
      event === 'svids' && String((list as readonly { spiffeId: string }[]).map(({ spiffeId }) => spiffeId).toSorted()) === String(paths.map((one) => `spiffe://${trustDomain}${one}`));
    const refused = ({ event, reason }: OutputLine): boolean => event === 'refused' && reason === 'workload.no-identity';

    it('a unit has its SVIDs, and others as soon as a reload changes it', async () => {
      await start('web.service', streaming(plain));
      await says('web.service', svids('/web', '/web-as-installed'));
      await systemd.unit('web.service', streaming(plain), systemd.overrides);
      await systemd.systemctl('daemon-reload');
      await says('web.service', svids('/web', '/web-overridden'));
    });

    it('another unit that runs the same has none', async () => {
      await start('webb.service', streaming(plain));
      await says('webb.service', refused);
    });

    it('T-A07 nor has one that calls a group of its own the same', async () => {
      await start('user@1001.service', streaming((command) => forging('web.service', command)));
      await says('user@1001.service', refused);
      const groups = await systemd.run('cat', `/proc/${String(await systemd.mainPid('user@1001.service'))}/cgroup`);
      expect(groups.stdout).toContain('/user@1001.service/web.service\n');
    });
  });
});

/** Ends it by its input: what `nsenter` started outlives it. */
async function leave(running: Running): Promise<void> {
  running.child.stdin?.end();
  await running.exit;
}
