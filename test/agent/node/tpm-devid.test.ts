import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { tpmDevidEvidence, type TpmDevidOptions } from '../../../agent/node/tpm-devid.ts';
import { Secret } from '../../../runtime/log.ts';
import { createTpmDevidVerifier } from '../../../server/admission/tpm/devid.ts';
import type { VerifiedNode } from '../../../server/admission/verifier.ts';
import { formatPemCertificates } from '../../../spiffe/pem.ts';
import { createTestClock } from '../../help/clock.ts';
import { createDevidWorld, devidCertificate, endorsementCertificate } from '../../help/devid.ts';
import { exampleOrg, idOf } from '../../help/store.ts';
import { areaOf, keyAttributes, serveTpm, softAttestationKey, softEndorsementKey, softKey, SoftTpm, type SoftKey } from '../../help/tpm.ts';

const at = Date.UTC(2026, 5, 1);
const world = createDevidWorld();
const verifier = createTpmDevidVerifier({ devidAuthorities: [world.devidRoot.certificate], endorsementAuthorities: [world.endorsementRoot.certificate] });
const endorsement = { rsa: softEndorsementKey('rsa'), ecc: softEndorsementKey('P-256') };
const attestation = softAttestationKey();
const keys = {
  rsa: softKey('rsa', { attributes: keyAttributes.devid, scheme: [0x0014, 0x000b] }),
  ecc: softKey('P-256', { attributes: keyAttributes.devid, scheme: [0x0018, 0x000b] }),
};
const readable = { byAnyone: 0x0004_0000, byOwner: 0x0002_0000 } as const;
const certificates = {
  rsa: endorsementCertificate(world.endorsementRoot, endorsement.rsa),
  ecc: endorsementCertificate(world.endorsementRoot, endorsement.ecc),
};

let directory: string;
let tpm: SoftTpm;
let served: AsyncDisposable;
let nextSocket = 0;
let options: TpmDevidOptions;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'tpm-devid-'));
});
afterAll(() => rm(directory, { recursive: true }));

beforeEach(async () => {
  tpm = new SoftTpm(endorsement, attestation);
  tpm.indices.set(0x01c0_0002, { attributes: readable.byAnyone, content: certificates.rsa });
  const device = join(directory, `${(nextSocket += 1)}.sock`);
  served = await serveTpm(device, tpm);
  options = { clock: createTestClock(), device, devid: await provision(keys.rsa) };
});
afterEach(() => served[Symbol.asyncDispose]());

async function provision(key: SoftKey, form: { readonly password?: string; readonly sized?: boolean } = {}): Promise<TpmDevidOptions['devid']> {
  const { privateBlob, publicBlob } = tpm.adopt(key, form.password);
  const name = join(directory, createHash('sha1').update(privateBlob).digest('hex'));
  const behindSize = (bytes: Buffer): Buffer => (form.sized === true ? Buffer.concat([Buffer.of(bytes.length >> 8, bytes.length & 0xff), bytes]) : bytes);
  const chain = [devidCertificate(world.devidIssuer, key), world.devidIssuer.certificate];
  await writeFile(`${name}.pem`, formatPemCertificates(chain));
  await writeFile(`${name}.priv`, behindSize(privateBlob));
  await writeFile(`${name}.pub`, behindSize(publicBlob));
  return { certificate: `${name}.pem`, privateBlob: `${name}.priv`, publicBlob: `${name}.pub` };
}

async function attest(given: TpmDevidOptions = options): Promise<VerifiedNode> {
  const evidence = await tpmDevidEvidence(given).produce();
  expect(tpm.loaded, 'loaded while the server thinks').toBe(0);
  return verifier.verify(evidence.payload, (challenge) => evidence.answer(challenge), { trustDomain: exampleOrg, remoteAddress: '', at });
}

describe('tpmDevidEvidence', () => {
  it('convinces the verifier again and again, with three objects loaded at most and none in the end', async () => {
    for (let round = 0; round < 2; round += 1) {
      const { agentId } = await attest();
      const [leaf] = JSON.parse(Buffer.from((await tpmDevidEvidence(options).produce()).payload).toString()).DevIDCert as string[];
      expect(agentId).toBe(idOf(`/spire/agent/tpm_devid/${createHash('sha1').update(Buffer.from(leaf!, 'base64')).digest('hex')}`));
    }
    expect(tpmDevidEvidence(options)).toMatchObject({ type: 'tpm_devid', repeatable: true });
    expect([tpm.loaded, tpm.most]).toEqual([0, 3]);
  });

  it('sends the members that SPIRE’s servers read, public areas without their sizes', async () => {
    const { payload } = await tpmDevidEvidence({ ...options, devid: await provision(keys.ecc, { sized: true }) }).produce();
    const sent = JSON.parse(Buffer.from(payload).toString()) as Record<string, string | string[]>;
    expect(Object.keys(sent)).toEqual(['DevIDCert', 'DevIDPub', 'EKCert', 'EKPub', 'AKPub', 'CertifiedDevID', 'CertificationSignature']);
    expect(sent['DevIDCert']).toHaveLength(2);
    expect(sent['DevIDPub']).toBe(keys.ecc.area.toString('base64'));
    expect(sent['EKPub']).toBe(endorsement.rsa.area.toString('base64'));
    expect(sent['EKCert']).toBe(Buffer.from(certificates.rsa).toString('base64'));
  });

  const set = (password: string): Secret<string> => new Secret(password);
  const ways: readonly (readonly [name: string, prepare: () => Promise<TpmDevidOptions>])[] = [
    ['a DevID of ECC', async () => ({ ...options, devid: await provision(keys.ecc) })],
    ['blobs with their sizes in front', async () => ({ ...options, devid: await provision(keys.rsa, { sized: true }) })],
    ['a key without a scheme of its own', async () => ({ ...options, devid: await provision({ ...keys.rsa, area: areaOf({ key: keys.rsa.publicKey, attributes: keyAttributes.devid }) }) })],
    ['a password for the DevID key', async () => ({ ...options, devid: { ...(await provision(keys.rsa, { password: 'devid' })), password: set('devid') } })],
    [
      'passwords for the hierarchies',
      async () => {
        Object.assign(tpm.passwords, { owner: 'owner', endorsement: 'endorser' });
        return { ...options, ownerPassword: set('owner'), endorsementPassword: set('endorser') };
      },
    ],
    [
      'a certificate that only the owner may read, and more bytes after it',
      async () => {
        tpm.passwords.owner = 'owner';
        tpm.indices.set(0x01c0_0002, { attributes: readable.byOwner, content: Buffer.concat([certificates.rsa, Buffer.alloc(700, 0xff)]) });
        return { ...options, ownerPassword: set('owner') };
      },
    ],
    ['a TPM that reads little at once', async () => { tpm.indexBytes = 100; return options; }],
    ['a TPM that does not tell how much it reads at once', async () => { tpm.indexBytes = undefined; return options; }],
    [
      'an endorsement key of ECC alone',
      async () => {
        tpm.indices.clear();
        tpm.indices.set(0x01c0_000a, { attributes: readable.byAnyone, content: certificates.ecc });
        return options;
      },
    ],
    ...(['rsa', 'ecc'] as const).map(
      (kind) =>
        [
          `a certificate of the ${kind} endorsement key from a file`,
          async () => {
            tpm.indices.clear();
            const path = join(directory, `ek-${kind}`);
            await writeFile(path, kind === 'rsa' ? certificates.rsa : formatPemCertificates([certificates.ecc]));
            return { ...options, ekCertificate: path };
          },
        ] as const,
    ),
  ];
  it.each(ways)('convinces with %s', async (_name, prepare) => {
    await expect(attest(await prepare())).resolves.toMatchObject({ canReattest: true });
    expect(tpm.loaded).toBe(0);
  });

  it('reads its files again for each attempt', async () => {
    const source = tpmDevidEvidence(options);
    await source.produce();
    const renewed = devidCertificate(world.devidIssuer, keys.rsa);
    await writeFile(options.devid.certificate, formatPemCertificates([renewed]));
    const { payload } = await source.produce();
    expect(JSON.parse(Buffer.from(payload).toString())).toMatchObject({ DevIDCert: [Buffer.from(renewed).toString('base64')] });
  });

  it('leaves nothing loaded whichever command fails', async () => {
    await attest();
    const commands = [...tpm.seen];
    expect(commands.length).toBeGreaterThan(25);
    const failed: string[] = [];
    for (const [place, name] of commands.entries()) {
      const nth = commands.slice(0, place + 1).filter((one) => one === name).length;
      // What was not flushed because of it is the TPM's to keep.
      if (name === 'FlushContext') continue;
      tpm.restart();
      const before = tpm.seen.filter((one) => one === name).length;
      tpm.fault = (one, count) => (one === name && count === before + nth ? 0x101 : undefined);
      await expect(attest(), `${name} ${nth}`).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.failed', detail: { command: name, code: '0x101' } });
      failed.push(name);
      expect(tpm.loaded, `loaded after ${name} ${nth} failed`).toBe(0);
    }
    tpm.fault = () => undefined;
    expect(new Set(failed).size).toBe(13);
    await expect(attest()).resolves.toBeDefined();
  });

  it('says when flushing failed, and flushes the rest', async () => {
    tpm.fault = (name, count) => (name === 'FlushContext' && count === 3 ? 0x101 : undefined);
    await expect(attest()).rejects.toMatchObject({ reason: 'evidence.tpm.failed', detail: { command: 'FlushContext' } });
    expect(tpm.loaded).toBe(1);
  });

  it('cannot answer once the TPM restarted, and proves itself anew', async () => {
    const evidence = await tpmDevidEvidence(options).produce();
    const answer = verifier.verify(
      evidence.payload,
      (challenge) => {
        tpm.restart();
        return evidence.answer(challenge);
      },
      { trustDomain: exampleOrg, remoteAddress: '', at },
    );
    await expect(answer).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.failed', detail: { command: 'ContextLoad' } });
    expect(tpm.loaded).toBe(0);
    await expect(attest()).resolves.toBeDefined();
  });

  const failures: readonly (readonly [name: string, prepare: () => Promise<TpmDevidOptions>, expected: object])[] = [
    ['the wrong password of the owner', async () => { tpm.passwords.owner = 'x'; return options; }, { kind: 'denied', reason: 'evidence.tpm.authorization', detail: { command: 'CreatePrimary', code: '0x0a2' } }],
    ['the wrong password of the endorsement hierarchy', async () => { tpm.passwords.endorsement = 'x'; return options; }, { kind: 'denied', reason: 'evidence.tpm.authorization' }],
    ['the wrong password of the DevID key', async () => ({ ...options, devid: await provision(keys.rsa, { password: 'x' }) }), { kind: 'denied', reason: 'evidence.tpm.authorization', detail: { command: 'Certify', code: '0x0a2' } }],
    ['a TPM that is locked out', async () => { tpm.fault = () => 0x921; return options; }, { kind: 'unavailable', reason: 'evidence.tpm.lockout' }],
    ['a DevID of another TPM', async () => { const other = new SoftTpm(endorsement, attestation); const mine = tpm; tpm = other; const devid = await provision(keys.ecc); tpm = mine; return { ...options, devid }; }, { kind: 'invalid', reason: 'evidence.tpm-devid.foreign-key' }],
    ['no certificate of the endorsement key', async () => { tpm.indices.clear(); return options; }, { kind: 'invalid', reason: 'evidence.tpm.no-endorsement' }],
    ['something else in place of that certificate', async () => { tpm.indices.set(0x01c0_0002, { attributes: readable.byAnyone, content: Buffer.alloc(64) }); return options; }, { kind: 'invalid', reason: 'evidence.tpm.index' }],
    ['more in its place than any certificate', async () => { tpm.indices.set(0x01c0_0002, { attributes: readable.byAnyone, content: Buffer.alloc(17_000) }); return options; }, { kind: 'invalid', reason: 'evidence.tpm.index' }],
    ['a key of another certificate', async () => ({ ...options, devid: { ...options.devid, certificate: (await provision(keys.ecc)).certificate } }), { kind: 'invalid', reason: 'evidence.tpm-devid.mismatch' }],
    ['no key in the blob', async () => ({ ...options, devid: { ...options.devid, publicBlob: options.devid.certificate } }), { kind: 'invalid', reason: 'evidence.tpm-devid.key' }],
    ['no certificate in the file', async () => ({ ...options, devid: { ...options.devid, certificate: options.devid.publicBlob } }), { kind: 'invalid', reason: 'evidence.tpm-devid.certificate' }],
    ['no file', async () => ({ ...options, devid: { ...options.devid, privateBlob: '/nowhere/devid.priv' } }), { kind: 'unavailable', reason: 'evidence.tpm-devid.unreadable' }],
    ['a file that is no certificate for the endorsement', async () => ({ ...options, ekCertificate: options.devid.publicBlob }), { kind: 'invalid', reason: 'evidence.tpm-devid.certificate' }],
    ['a key that signs in SHA-384', async () => ({ ...options, devid: await provision({ ...keys.rsa, area: areaOf({ key: keys.rsa.publicKey, attributes: keyAttributes.devid, scheme: [0x0014, 0x000c] }) }) }), { kind: 'invalid', reason: 'evidence.tpm-devid.scheme' }],
    ['a key that signs with PSS', async () => ({ ...options, devid: await provision({ ...keys.rsa, area: areaOf({ key: keys.rsa.publicKey, attributes: keyAttributes.devid, scheme: [0x0016, 0x000b] }) }) }), { kind: 'invalid', reason: 'evidence.tpm-devid.scheme' }],
    ['a restricted key', async () => ({ ...options, devid: await provision({ ...keys.rsa, area: areaOf({ key: keys.rsa.publicKey, attributes: keyAttributes.attestation, scheme: [0x0014, 0x000b] }) }) }), { kind: 'invalid', reason: 'evidence.tpm-devid.scheme' }],
  ];
  it.each(failures)('tells of %s', async (_name, prepare, expected) => {
    await expect(tpmDevidEvidence(await prepare()).produce()).rejects.toMatchObject(expected);
    expect(tpm.loaded).toBe(0);
  });

  it('does not try a password again that the TPM refused, until there is another key', async () => {
    const devid = await provision(keys.rsa, { password: 'right' });
    const source = tpmDevidEvidence({ ...options, devid: { ...devid, password: new Secret('wrong') } });
    const refusal = { kind: 'denied', reason: 'evidence.tpm.authorization' };
    await expect(source.produce()).rejects.toMatchObject(refusal);
    const asked = tpm.seen.length;
    for (let round = 0; round < 3; round += 1) await expect(source.produce()).rejects.toMatchObject(refusal);
    expect(tpm.seen).toHaveLength(asked);
    const { privateBlob } = tpm.adopt(keys.rsa, 'wrong');
    await writeFile(devid.privateBlob, privateBlob);
    await expect(source.produce()).resolves.toBeDefined();
  });

  it('tells of answers that make no sense', async () => {
    tpm.garble = (name, answer) => (name === 'Create' ? Buffer.concat([Buffer.from('80010000000c00000000', 'hex'), Buffer.of(0, 9)]) : answer);
    await expect(tpmDevidEvidence(options).produce()).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.response', cause: { reason: 'tpm.truncated' } });
    expect(tpm.loaded).toBe(0);
  });

  it('lets no secret into what an error tells', async () => {
    tpm.passwords.owner = 'right';
    const caught: unknown = await tpmDevidEvidence({ ...options, ownerPassword: new Secret('horse-battery') }).produce().catch((error: unknown) => error);
    expect(JSON.stringify([caught, (caught as Error).message, (caught as Error).stack])).not.toContain('horse-battery');
  });

  const posed = (parts: object): Buffer => Buffer.from(JSON.stringify(parts));
  const nonce = Buffer.alloc(32, 1).toString('base64');
  const blob = Buffer.alloc(68, 1).toString('base64');
  it.each([
    ['not JSON', Buffer.from('{')],
    ['a list', Buffer.from('[]')],
    ['no nonce', posed({ CredActivation: { Credential: blob, Secret: blob } })],
    ['a short nonce', posed({ DevID: 'AAAA', CredActivation: { Credential: blob, Secret: blob } })],
    ['something long to sign', posed({ DevID: blob, CredActivation: { Credential: blob, Secret: blob } })],
    ['no credential', posed({ DevID: nonce, CredActivation: null })],
    ['half a credential', posed({ DevID: nonce, CredActivation: { Credential: blob, Secret: null } })],
    ['too much', Buffer.alloc(5_000, 0x20)],
  ])('does not take %s for a challenge, nor asks the TPM', async (_name, challenge) => {
    const evidence = await tpmDevidEvidence(options).produce();
    const asked = tpm.seen.length;
    await expect(evidence.answer(challenge)).rejects.toMatchObject({ kind: 'invalid', reason: 'evidence.challenge.malformed' });
    expect(tpm.seen).toHaveLength(asked);
  });

  it('signs nothing for whoever cannot make a credential for this TPM', async () => {
    const evidence = await tpmDevidEvidence(options).produce();
    await expect(evidence.answer(posed({ DevID: nonce, CredActivation: { Credential: blob, Secret: blob } }))).rejects.toMatchObject({ detail: { command: 'ActivateCredential' } });
    expect(tpm.seen).not.toContain('Sign');
    expect(tpm.loaded).toBe(0);
  });
});
