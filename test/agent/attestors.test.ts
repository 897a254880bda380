import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { attestorTasks, evidenceSource, workloadAttestors, type ComposedAttestor } from '../../agent/attestors.ts';
import { parseAgentConfig } from '../../agent/config.ts';
import { silentLogger } from '../../runtime/log.ts';
import { runTasks } from '../../runtime/tasks.ts';
import { createTestClock } from '../help/clock.ts';

const least = 'trust_domain: example.org\n';

it.each([
  ['what every node has', '', ['unix', 'process']],
  ['one engine', 'workload: { docker: {} }', ['unix', 'process', 'docker']],
  [
    'all',
    'workload: { docker: {}, cri: {}, systemd: {}, kubernetes: { source: api_server, node_name: a } }',
    ['unix', 'process', 'systemd', 'docker', 'cri', 'k8s'],
  ],
])('attests workloads by %s as configured, and stops what that started', async (_what, more, expected) => {
  const clock = createTestClock();
  const attestors = workloadAttestors(parseAgentConfig(least + more).workload, { clock, random: () => 0.5, log: silentLogger });
  expect(attestors.map(({ name }) => name)).toEqual(expected);
  const stop = new AbortController();
  const running = runTasks(attestorTasks(attestors), stop.signal);
  stop.abort(new Error('over'));
  await running;
  expect(clock.sleepers).toBe(0);
});

it('runs what an attestor does besides answering, and stops it however that ends', async () => {
  const told: string[] = [];
  const attestor: ComposedAttestor = {
    name: 'third-party',
    attest: async () => [],
    run: () => Promise.reject(new Error('broken')),
    close: () => void told.push('closed'),
    stop: async () => void told.push('stopped'),
  };
  await expect(runTasks(attestorTasks([attestor]), new AbortController().signal)).rejects.toMatchObject({ reason: 'task.failed', detail: { task: 'attestor third-party' } });
  expect(told).toEqual(['closed', 'stopped']);
});

it('proves the node by what is configured', async () => {
  const directory = await mkdtemp(path.join(tmpdir(), 'steeple-attestors-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  const ca = path.join(directory, 'ca.pem');
  await writeFile(ca, 'PEM');
  const sections = [
    'type: join_token, token: t',
    'type: join_token, token_file: /t',
    'type: x509pop, certificate: /c, key: /k',
    'type: k8s_psat, cluster: prod',
    'type: oidc_ci, token_file: /t',
    `type: oidc_ci, trust: main, request: { url: 'https://runner.example/', audience: a, token: secret, ca: ${ca} }`,
    'type: tpm_devid, devid_cert_path: /c, devid_priv_path: /r, devid_pub_path: /u',
  ];
  const sources = await Promise.all(
    sections.map((section) => evidenceSource(parseAgentConfig(`${least}attestor: { ${section} }`).attestor, createTestClock())),
  );
  expect(sources.map(({ type, repeatable }) => [type, repeatable])).toEqual([
    ['join_token', false],
    ['join_token', false],
    ['x509pop', true],
    ['k8s_psat', true],
    ['oidc_ci', false],
    ['oidc_ci', true],
    ['tpm_devid', true],
  ]);
});
