import { createHash } from 'node:crypto';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { pinnedBundle, readTrustBundle } from '../../../agent/node/trust.ts';
import { formatBundleDocument } from '../../../spiffe/bundle-document.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { formatPemCertificates } from '../../../spiffe/pem.ts';
import { testAuthority, trustDomain } from '../../help/agent-server.ts';

const [one, two] = [testAuthority('one'), testAuthority('two')];
const authorities = [one, two].map(({ certificate }) => ({ certificate, tainted: false }));
const claimed = composeBundle({ ...emptyBundle(trustDomain), x509Authorities: authorities });
const sha256 = (der: Uint8Array): string => createHash('sha256').update(der).digest('hex');

let directory: string;
let file: string;
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'steeple-trust-'));
  file = path.join(directory, 'bundle');
});
afterEach(() => rm(directory, { recursive: true, force: true }));

const certificates = (bundle: typeof claimed): Buffer[] => bundle.x509Authorities.map(({ certificate }) => Buffer.from(certificate));

it.each([
  ['pem', formatPemCertificates([one.certificate, two.certificate])],
  ['spiffe', formatBundleDocument(claimed)],
] as const)('T-B14: a %s file names the authorities', async (format, text) => {
  await writeFile(file, text, { mode: 0o600 });
  expect(certificates(await readTrustBundle(file, format, trustDomain))).toEqual(certificates(claimed));
});

it.each([
  ['pem', '', 'trust.bundle.unreadable'],
  ['pem', 'not a certificate', 'trust.bundle.unreadable'],
  ['spiffe', '{', 'trust.bundle.unreadable'],
  ['spiffe', '{"keys":[]}', 'trust.bundle.empty'],
] as const)('T-B14: a %s file with %j is refused', async (format, text, reason) => {
  await writeFile(file, text, { mode: 0o600 });
  await expect(readTrustBundle(file, format, trustDomain)).rejects.toMatchObject({ kind: 'invalid', reason });
});

it('T-B14: a file that others may write is refused', async () => {
  await writeFile(file, formatPemCertificates([one.certificate]));
  await chmod(file, 0o666);
  await expect(readTrustBundle(file, 'pem', trustDomain)).rejects.toMatchObject({ reason: 'files.mode' });
});

it('T-B14: a pin takes the authority it names and no other', () => {
  expect(certificates(pinnedBundle(claimed, sha256(two.certificate).toUpperCase()))).toEqual([Buffer.from(two.certificate)]);
  const wrong = sha256(testAuthority('three').certificate);
  expect(() => pinnedBundle(claimed, wrong)).toThrow(expect.objectContaining({ kind: 'denied', reason: 'trust.pin.mismatch' }));
});
