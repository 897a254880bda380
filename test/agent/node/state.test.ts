import { chmod, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { nodeStateFiles, type NodeStateFiles } from '../../../agent/node/state.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { testAuthority, trustDomain } from '../../help/agent-server.ts';

const authority = testAuthority();
const agentId = 'spiffe://example.org/spire/agent/join_token/t';
const bundle = composeBundle({ ...emptyBundle(trustDomain), x509Authorities: [{ certificate: authority.certificate, tainted: false }], sequence: 7n });

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

let directory: string;
let files: NodeStateFiles;
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'steeple-state-'));
  files = nodeStateFiles(directory, trustDomain);
});
afterEach(() => rm(directory, { recursive: true, force: true }));

it('knows nothing at first', async () => {
  expect([await files.readState(), await files.readBundle()]).toEqual([undefined, undefined]);
});

it.each([['with', true], ['without', false]])('finds again what was written, %s the SVID before', async (_name, both) => {
  const [svid, older] = [authority.svid(agentId), authority.svid(agentId)];
  await files.writeState({ svid, reattestable: both, renewAt: 123, previous: both ? older : undefined });
  const read = await nodeStateFiles(directory, trustDomain).readState();
  expect(read).toMatchObject({ reattestable: both, renewAt: 123 });
  expect(read?.svid.chain.map(hex)).toEqual(svid.chain.map(hex));
  expect(read?.svid.privateKey.equals(svid.privateKey)).toBe(true);
  expect(read?.previous?.serial).toBe(both ? older.serial : undefined);
});

it('keeps the bundle, with its sequence', async () => {
  await files.writeBundle(bundle);
  const read = await files.readBundle();
  expect(read).toMatchObject({ trustDomain, sequence: 7n });
  expect(read?.x509Authorities.map(({ certificate }) => hex(certificate))).toEqual([hex(authority.certificate)]);
});

it('T-A14: files are the owner’s alone, and one that is not is not believed', async () => {
  await files.writeState({ svid: authority.svid(agentId), reattestable: false, renewAt: 1, previous: undefined });
  await files.writeBundle(bundle);
  const names = await readdir(directory);
  expect(new Set(names)).toEqual(new Set(['agent.json', 'bundle.json']));
  for (const name of names) expect((await stat(path.join(directory, name))).mode & 0o777).toBe(0o600);
  await chmod(path.join(directory, 'agent.json'), 0o644);
  await expect(files.readState()).rejects.toMatchObject({ kind: 'denied' });
});

it('forgets the SVID, and goes on trusting the bundle', async () => {
  await files.writeState({ svid: authority.svid(agentId), reattestable: false, renewAt: 1, previous: undefined });
  await files.writeBundle(bundle);
  await files.forgetState();
  await files.forgetState();
  expect([await files.readState(), (await files.readBundle())?.sequence]).toEqual([undefined, 7n]);
});

it.each([
  ['no JSON', 'agent.json', '{'],
  ['another version', 'agent.json', '{"version":2}'],
  ['a part missing', 'agent.json', '{"version":1,"reattestable":true,"renewAt":1,"previous":null}'],
  ['no certificate', 'agent.json', '{"version":1,"svid":{"chain":["AAAA"],"key":"AAAA"},"reattestable":true,"renewAt":1,"previous":null}'],
  ['no bundle', 'bundle.json', '[]'],
])('%s is told, not guessed at', async (_name, file, text) => {
  await writeFile(path.join(directory, file), text, { mode: 0o600 });
  const read = file === 'agent.json' ? files.readState() : files.readBundle();
  await expect(read).rejects.toMatchObject({ kind: 'invalid', reason: 'state.unreadable' });
});
