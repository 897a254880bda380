/**
 * A TPM that swtpm emulates, provisioned with tpm2-tools: the agent proves a node by it to the verifier, and each side is
 * tried against tpm2-tools in place of the other.
 */
import { createHash, createPublicKey, randomBytes, X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { activateCredential, create, createPrimary, hierarchy, load, policySecret, readIndex, startPolicySession } from '../../agent/node/tpm/commands.ts';
import { holding } from '../../agent/node/tpm/held.ts';
import { attestationKey, endorsementKeys, storageRoot } from '../../agent/node/tpm/templates.ts';
import { tpmDevidEvidence, type TpmDevidOptions } from '../../agent/node/tpm-devid.ts';
import { systemClock } from '../../runtime/clock.ts';
import { Secret } from '../../runtime/log.ts';
import { nameOf, readPublicArea, subjectPublicKeyInfo, withoutSize } from '../../runtime/tpm/structures.ts';
import { makeCredential } from '../../server/admission/tpm/credential.ts';
import { createTpmDevidVerifier } from '../../server/admission/tpm/devid.ts';
import type { VerifiedNode, Verifier } from '../../server/admission/verifier.ts';
import { authorityCalled, encodeJson, endorsementCertificate, readChallenge } from '../help/devid.ts';
import { runToEnd, startRunning } from '../help/running.ts';
import { exampleOrg, idOf } from '../help/store.ts';
import { devidAttributes, startSwtpm, storageAttributes, withoutSwtpm, type ProvisionedDevid, type ProvisionOptions, type Swtpm } from '../help/swtpm.ts';

const without = withoutSwtpm();
const none = new Uint8Array();
const sha1 = (der: Uint8Array): string => createHash('sha1').update(der).digest('hex');
const sizedRun = (bytes: Uint8Array): Buffer => Buffer.concat([Buffer.of(bytes.length >> 8, bytes.length & 0xff), bytes]);

describe.skipIf(without !== undefined)(`a TPM of swtpm ${without ?? ''}`, () => {
  const devidRoot = authorityCalled('DevID Root');
  const ownMaker = authorityCalled('Our Own Maker');
  let tpm: Swtpm;
  let verifier: Verifier;
  let rsa: ProvisionedDevid;
  let ecc: ProvisionedDevid;

  beforeAll(async () => {
    tpm = await startSwtpm();
    verifier = createTpmDevidVerifier({ devidAuthorities: [devidRoot.certificate], endorsementAuthorities: [tpm.endorsementAuthority, ownMaker.certificate] });
    rsa = await tpm.provision('rsa', devidRoot);
    ecc = await tpm.provision('ecc', devidRoot, { algorithm: 'ecc256:ecdsa-sha256:null' });
  });
  afterAll(async () => tpm?.[Symbol.asyncDispose]());

  const optionsFor = (devid: ProvisionedDevid, more: Partial<TpmDevidOptions> = {}): TpmDevidOptions => ({ clock: systemClock, device: tpm.socket, devid, ...more });
  const show = (payload: Uint8Array, answer: (challenge: Uint8Array) => Promise<Uint8Array>): Promise<VerifiedNode> =>
    verifier.verify(payload, answer, { trustDomain: exampleOrg, remoteAddress: '', at: Date.now() });
  const attest = async (options: TpmDevidOptions): Promise<VerifiedNode> => {
    const evidence = await tpmDevidEvidence(options).produce();
    return show(evidence.payload, (challenge) => evidence.answer(challenge));
  };
  const outcomeOf = (shown: Promise<unknown>): Promise<unknown> => shown.then(() => 'accepted', (error: unknown) => error);

  it.each([['RSA', () => rsa], ['P-256', () => ecc]] as const)('proves a node with a DevID of %s, and keeps nothing loaded', async (_name, devid) => {
    const { certificate } = devid();
    const leaf = new X509Certificate(await tpm.file(certificate.split('/').at(-1) ?? ''));
    await expect(attest(optionsFor(devid()))).resolves.toEqual({
      agentId: idOf(`/spire/agent/tpm_devid/${sha1(leaf.raw)}`),
      selectors: ['tpm_devid:subject:cn:device-1', 'tpm_devid:issuer:cn:DevID Root', `tpm_devid:ca:fingerprint:${sha1(devidRoot.certificate)}`],
      canReattest: true,
      tokenHash: undefined,
    });
    expect(await tpm.handles()).toEqual([]);
  });

  const kinds: readonly (readonly [string, ProvisionOptions])[] = [
    ['P-384, with no scheme of its own', { algorithm: 'ecc384' }],
    ['RSA, with no scheme of its own', { algorithm: 'rsa2048' }],
    ['RSA of 3072 bits', { algorithm: 'rsa3072:rsassa-sha256:null' }],
    ['P-256, behind a password', { algorithm: 'ecc256:ecdsa-sha256:null', password: 'open sesame' }],
  ];
  it.each(kinds)('proves a node with a DevID of %s', async (name, options) => {
    const devid = await tpm.provision(name.replace(/\W+/g, '-'), devidRoot, options);
    const password = options.password === undefined ? {} : { password: new Secret(options.password) };
    await expect(attest(optionsFor(devid, { devid: { ...devid, ...password } }))).resolves.toMatchObject({ canReattest: true });
    expect(await tpm.handles()).toEqual([]);
  });

  it('tells of a wrong password for the DevID key, keeping nothing loaded', async () => {
    const devid = await tpm.provision('locked', devidRoot, { password: 'right' });
    await expect(attest(optionsFor(devid, { devid: { ...devid, password: new Secret('wrong') } }))).rejects.toMatchObject({ kind: 'denied', reason: 'evidence.tpm.authorization' });
    expect(await tpm.handles()).toEqual([]);
    await tpm.tool('dictionarylockout', '-c');
  });

  it('tells of a DevID that another TPM made', async () => {
    await using other = await startSwtpm();
    const foreign = await other.provision('foreign', devidRoot);
    await expect(attest(optionsFor(foreign))).rejects.toMatchObject({ kind: 'invalid', reason: 'evidence.tpm-devid.foreign-key' });
    expect(await tpm.handles()).toEqual([]);
    // Nor does this TPM's endorsement help the other.
    const evidence = await tpmDevidEvidence({ ...optionsFor(foreign), device: other.socket }).produce();
    await expect(show(evidence.payload, (challenge) => evidence.answer(challenge))).rejects.toMatchObject({ kind: 'denied', reason: 'tpm-devid.refused' });
    const ours = JSON.parse(Buffer.from((await tpmDevidEvidence(optionsFor(rsa)).produce()).payload).toString()) as Record<string, string>;
    const theirs = JSON.parse(Buffer.from(evidence.payload).toString()) as Record<string, string>;
    const mixed = Buffer.from(JSON.stringify({ ...theirs, EKCert: ours['EKCert'], EKPub: ours['EKPub'] }));
    await expect(show(mixed, (challenge) => evidence.answer(challenge))).rejects.toMatchObject({ kind: 'unavailable', detail: { command: 'ActivateCredential' } });
    expect(await other.handles()).toEqual([]);
  });

  it('proves nothing across a restart, and everything after it', async () => {
    const evidence = await tpmDevidEvidence(optionsFor(ecc)).produce();
    await expect(
      show(evidence.payload, async (challenge) => {
        await tpm.restart();
        return evidence.answer(challenge);
      }),
    ).rejects.toMatchObject({ kind: 'unavailable', detail: { command: 'ContextLoad' } });
    expect(await tpm.handles()).toEqual([]);
    await expect(attest(optionsFor(ecc))).resolves.toBeDefined();
  });

  it('says so when the TPM is gone', async () => {
    const evidence = await tpmDevidEvidence(optionsFor(ecc)).produce();
    await tpm.stop();
    await expect(show(evidence.payload, (challenge) => evidence.answer(challenge))).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.missing' });
    await expect(attest(optionsFor(ecc))).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.tpm.missing' });
    await tpm.restart();
  });

  it('reads the endorsement certificate as tpm2_nvread does', async () => {
    const ours = await tpm.ours((device) => readIndex(device, endorsementKeys.rsa.index, none));
    await tpm.tool('nvread', '-Q', '-C', 'o', '-o', 'ek.der', '0x1c00002');
    expect(Buffer.from(ours)).toEqual(await tpm.file('ek.der'));
  });

  it('makes the keys that tpm2-tools make', async () => {
    const sameAs = async (made: Promise<{ readonly publicArea: Uint8Array; readonly handle: number }>, file: string): Promise<void> => {
      expect(Buffer.from((await made).publicArea)).toEqual(Buffer.from(withoutSize(await tpm.file(file))));
    };
    for (const [kind, algorithm] of [['rsa', 'rsa'], ['ecc', 'ecc']] as const) {
      await tpm.tool('createek', '-Q', '-c', 'ek.ctx', '-G', algorithm, '-u', `ek-${kind}.pub`);
      await tpm.tool('createprimary', '-Q', '-C', 'o', '-g', 'sha256', '-G', kind === 'rsa' ? 'rsa2048' : 'ecc256', '-a', storageAttributes, '-c', 'srk.ctx');
      await tpm.tool('readpublic', '-Q', '-c', 'srk.ctx', '-o', `srk-${kind}.pub`);
      await tpm.tool('flushcontext', '-t');
      await tpm.ours((device) =>
        holding(device, async ({ hold }) => {
          const endorser = { hierarchy: hierarchy.endorsement, password: none };
          const owner = { hierarchy: hierarchy.owner, password: none };
          await sameAs(createPrimary(device, endorser, endorsementKeys[kind].template, none).then(hold), `ek-${kind}.pub`);
          await sameAs(createPrimary(device, owner, storageRoot[kind], Buffer.from('x')).then(hold), `srk-${kind}.pub`);
        }),
      );
    }
  });

  describe('with tpm2-tools on the other side', () => {
    const credentialFile = ({ credential, secret }: { credential: Uint8Array; secret: Uint8Array }): Buffer =>
      Buffer.concat([Buffer.from('badcc0de00000001', 'hex'), sizedRun(credential), sizedRun(secret)]);
    /** `tpm2_activatecredential` with leave of the endorsement hierarchy. */
    const activate = async (blob: { credential: Uint8Array; secret: Uint8Array }): Promise<Buffer> => {
      await writeFile(tpm.path('credential'), credentialFile(blob));
      await tpm.tool('startauthsession', '--policy-session', '-S', 'session.ctx');
      await tpm.tool('policysecret', '-Q', '-S', 'session.ctx', '-c', 'e');
      await tpm.tool('activatecredential', '-Q', '-c', 'ak.ctx', '-C', 'ek.ctx', '-i', 'credential', '-o', 'secret', '-P', 'session:session.ctx');
      await tpm.tool('flushcontext', 'session.ctx');
      await tpm.tool('flushcontext', '-t');
      return tpm.file('secret');
    };
    const makeAttestationKey = async (algorithm: 'rsa' | 'ecc', endorsement: 'rsa' | 'ecc'): Promise<void> => {
      await tpm.tool('createek', '-Q', '-c', 'ek.ctx', '-G', endorsement, '-u', 'ek.pub');
      await tpm.tool('createak', '-Q', '-C', 'ek.ctx', '-c', 'ak.ctx', '-G', algorithm, '-g', 'sha256', '-s', algorithm === 'rsa' ? 'rsassa' : 'ecdsa', '-u', 'ak.pub', '-n', 'ak.name');
      await tpm.tool('flushcontext', '-t');
    };

    it.each(['rsa', 'ecc'] as const)('opens our credentials with tpm2_activatecredential: %s', async (endorsement) => {
      await makeAttestationKey('rsa', endorsement);
      const name = nameOf(readPublicArea(withoutSize(await tpm.file('ak.pub'))));
      expect(Buffer.from(name)).toEqual(await tpm.file('ak.name'));
      const key = readPublicArea(withoutSize(await tpm.file('ek.pub')));
      for (const secret of [randomBytes(32), randomBytes(16), randomBytes(1)]) expect(await activate(makeCredential(key, name, secret))).toEqual(secret);
    });

    it('opens our credentials for the P-384 key that the maker stored, with SHA-384 and AES-256', async () => {
      await makeAttestationKey('rsa', 'rsa');
      await tpm.tool('readpublic', '-Q', '-c', '0x81010016', '-o', 'ek384.pub');
      const secret = randomBytes(48);
      const blob = makeCredential(readPublicArea(withoutSize(await tpm.file('ek384.pub'))), await tpm.file('ak.name'), secret);
      await writeFile(tpm.path('credential'), credentialFile(blob));
      // Templates from H-1 on let the key be used with its password, which is empty.
      await tpm.tool('activatecredential', '-Q', '-c', 'ak.ctx', '-C', '0x81010016', '-i', 'credential', '-o', 'secret');
      await tpm.tool('flushcontext', '-t');
      expect(await tpm.file('secret')).toEqual(secret);
    });

    it.each(['rsa', 'ecc'] as const)('opens with our client what tpm2_makecredential made: %s', async (kind) => {
      const secret = randomBytes(32);
      const opened = await tpm.ours((device) =>
        holding(device, async ({ hold, release }) => {
          const parent = hold(await createPrimary(device, { hierarchy: hierarchy.owner, password: none }, storageRoot.rsa, none));
          const blobs = await create(device, parent, attestationKey, Buffer.from('pw'));
          const key = hold(await load(device, parent, blobs, Buffer.from('pw')));
          await release(parent);
          const endorsement = hold(await createPrimary(device, { hierarchy: hierarchy.endorsement, password: none }, endorsementKeys[kind].template, none));
          await writeFile(tpm.path('ek.tpm2b'), sizedRun(endorsement.publicArea));
          await writeFile(tpm.path('plain'), secret);
          const name = Buffer.from(nameOf(readPublicArea(blobs.publicBlob))).toString('hex');
          // Speaks to no TPM.
          const made = await runToEnd(['tpm2', 'makecredential', '-Q', '-T', 'none', '-e', tpm.path('ek.tpm2b'), '-s', tpm.path('plain'), '-n', name, '-o', tpm.path('made')]);
          expect(made.code, made.stderr).toBe(0);
          const file = await tpm.file('made');
          const split = 10 + file.readUInt16BE(8);
          const blob = { credential: file.subarray(10, split), secret: file.subarray(split + 2) };
          const session = hold(await startPolicySession(device, randomBytes));
          await policySecret(device, hierarchy.endorsement, session, { password: none });
          return activateCredential(device, key, { handle: endorsement.handle, session }, blob);
        }),
      );
      expect(Buffer.from(opened)).toEqual(secret);
      expect(await tpm.handles()).toEqual([]);
    });

    it.each([
      ['rsa', 'rsa'],
      ['ecc', 'ecc'],
      ['ecc', 'rsa'],
    ] as const)('is convinced by nothing but tpm2-tools: attestation key of %s, DevID of %s', async (algorithm, devidKind) => {
      const devid = devidKind === 'rsa' ? rsa : ecc;
      await makeAttestationKey(algorithm, 'rsa');
      await tpm.tool('createprimary', '-Q', '-C', 'o', '-g', 'sha256', '-G', devidKind === 'rsa' ? 'rsa2048' : 'ecc256', '-a', storageAttributes, '-c', 'srk.ctx');
      await tpm.tool('load', '-Q', '-C', 'srk.ctx', '-u', devid.publicBlob, '-r', devid.privateBlob, '-c', 'devid.ctx');
      await tpm.tool('flushcontext', '-t');
      await tpm.tool('certify', '-Q', '-c', 'devid.ctx', '-C', 'ak.ctx', '-g', 'sha256', '-o', 'statement', '-s', 'signature', '-f', 'tss');
      await tpm.tool('flushcontext', '-t');
      await tpm.tool('nvread', '-Q', '-C', 'o', '-o', 'ek.der', '0x1c00002');
      const chain = [new X509Certificate(await tpm.file(devid.certificate.split('/').at(-1) ?? '')).raw];
      const payload = encodeJson({
        DevIDCert: chain,
        DevIDPub: withoutSize(await tpm.file(devid.publicBlob.split('/').at(-1) ?? '')),
        EKCert: await tpm.file('ek.der'),
        EKPub: withoutSize(await tpm.file('ek.pub')),
        AKPub: withoutSize(await tpm.file('ak.pub')),
        CertifiedDevID: withoutSize(await tpm.file('statement')),
        CertificationSignature: await tpm.file('signature'),
      });
      const node = await show(payload, async (challenge) => {
        const { nonce, credential, secret } = readChallenge(challenge);
        await writeFile(tpm.path('nonce'), nonce);
        await tpm.tool('sign', '-Q', '-c', 'devid.ctx', '-g', 'sha256', '-f', 'plain', '-o', 'signed', 'nonce');
        await tpm.tool('flushcontext', '-t');
        return encodeJson({ DevID: await tpm.file('signed'), CredActivation: await activate({ credential, secret }) });
      });
      expect(node.agentId).toBe(idOf(`/spire/agent/tpm_devid/${sha1(chain[0] ?? none)}`));
    });
  });

  it('proves a node through passwords of the hierarchies', async () => {
    await using locked = await startSwtpm();
    const devid = await locked.provision('devid', devidRoot);
    await locked.tool('changeauth', '-Q', '-c', 'owner', 'owner-pw');
    await locked.tool('changeauth', '-Q', '-c', 'endorsement', 'endorsement-pw');
    const check = createTpmDevidVerifier({ devidAuthorities: [devidRoot.certificate], endorsementAuthorities: [locked.endorsementAuthority] });
    const options = { clock: systemClock, device: locked.socket, devid };
    const right = { ownerPassword: new Secret('owner-pw'), endorsementPassword: new Secret('endorsement-pw') };
    const evidence = await tpmDevidEvidence({ ...options, ...right }).produce();
    const context = { trustDomain: exampleOrg, remoteAddress: '', at: Date.now() };
    await expect(check.verify(evidence.payload, (challenge) => evidence.answer(challenge), context)).resolves.toBeDefined();
    for (const wrong of [{}, { ownerPassword: right.ownerPassword }, { endorsementPassword: right.endorsementPassword }, { ...right, ownerPassword: new Secret('x') }]) {
      await expect(tpmDevidEvidence({ ...options, ...wrong }).produce()).rejects.toMatchObject({ kind: 'denied', reason: 'evidence.tpm.authorization' });
    }
    expect(await locked.handles()).toEqual([]);
  });

  it('proves a node whose TPM is endorsed by an ECC key alone, from the TPM or from a file', async () => {
    await using plain = await startSwtpm();
    const devid = await plain.provision('devid', devidRoot, { algorithm: 'ecc256:ecdsa-sha256:null' });
    await plain.tool('createek', '-Q', '-c', 'ek.ctx', '-G', 'ecc', '-u', 'ek.pub');
    await plain.tool('flushcontext', '-t');
    const area = readPublicArea(withoutSize(await plain.file('ek.pub')));
    const publicKey = createPublicKey({ key: Buffer.from(subjectPublicKeyInfo(area.key)), format: 'der', type: 'spki' });
    const certificate = endorsementCertificate(ownMaker, { publicKey, privateKey: publicKey, area: Buffer.from(area.bytes) });
    await writeFile(plain.path('ek-cert.der'), certificate);
    const check = async (more: Partial<TpmDevidOptions>): Promise<VerifiedNode> => {
      const evidence = await tpmDevidEvidence({ clock: systemClock, device: plain.socket, devid, ...more }).produce();
      return show(evidence.payload, (challenge) => evidence.answer(challenge));
    };
    await expect(check({ ekCertificate: plain.path('ek-cert.der') })).resolves.toBeDefined();
    await plain.tool('nvundefine', '-Q', '-C', 'p', '0x1c00002');
    await expect(check({})).rejects.toMatchObject({ kind: 'invalid', reason: 'evidence.tpm.no-endorsement' });
    await plain.tool('nvdefine', '-Q', '-C', 'o', '-s', String(certificate.length + 100), '-a', 'ownerread|ownerwrite|authread|authwrite', '0x1c0000a');
    await plain.tool('nvwrite', '-Q', '-C', 'o', '-i', 'ek-cert.der', '0x1c0000a');
    await expect(check({})).resolves.toBeDefined();
    expect(await plain.handles()).toEqual([]);
  });

  const withoutPython = existsSync('/usr/bin/python3') ? undefined : 'skipped: no python3';
  it.skipIf(withoutPython !== undefined && process.env['CI'] === undefined)(`speaks to a character device ${withoutPython ?? ''}`, async () => {
    // A terminal without any manners: what is written to one end is read at the other, byte for byte.
    const relay = `
import os, pty, socket, struct, sys, tty
master, slave = pty.openpty()
tty.setraw(slave)
print('{"event": "relay.ready", "path": "%s"}' % os.ttyname(slave), flush=True)
def exactly(read, length):
    data = b''
    while len(data) < length:
        data += read(length - len(data))
    return data
while True:
    head = exactly(lambda n: os.read(master, n), 10)
    command = head + exactly(lambda n: os.read(master, n), struct.unpack('>HI', head[:6])[1] - 10)
    with socket.socket(socket.AF_UNIX) as tpm:
        tpm.connect(sys.argv[1])
        tpm.sendall(command)
        head = exactly(tpm.recv, 10)
        os.write(master, head + exactly(tpm.recv, struct.unpack('>HI', head[:6])[1] - 10))
`;
    const running = startRunning(['python3', '-c', relay, tpm.socket]);
    try {
      const { path } = (await running.until('relay.ready')) as { path?: string };
      await expect(attest(optionsFor(rsa, { device: path ?? '' }))).resolves.toBeDefined();
      await expect(attest(optionsFor(ecc, { device: path ?? '' }))).resolves.toBeDefined();
    } finally {
      await running.end('SIGKILL');
    }
    expect(await tpm.handles()).toEqual([]);
  });

  it('T-B07: accepts none of thousands of changed exchanges, with a TPM that answers as well as it can', async () => {
    const evidence = await tpmDevidEvidence(optionsFor(rsa)).produce();
    const honest = JSON.parse(Buffer.from(evidence.payload).toString()) as Record<string, string | string[]>;
    await expect(show(evidence.payload, (challenge) => evidence.answer(challenge))).resolves.toBeDefined();
    const wrong: string[] = [];
    let tried = 0;
    let asked = 0;
    const tryOut = async (what: string, payload: object): Promise<void> => {
      tried += 1;
      const outcome = await outcomeOf(
        show(Buffer.from(JSON.stringify(payload)), (challenge) => {
          asked += 1;
          return evidence.answer(challenge);
        }),
      );
      if (outcome === 'accepted') wrong.push(what);
    };
    for (const [member, value] of Object.entries(honest)) {
      const bytes = Buffer.from(Array.isArray(value) ? (value[0] ?? '') : value, 'base64');
      const put = (changed: Uint8Array): object => {
        const text = Buffer.from(changed).toString('base64');
        return { ...honest, [member]: Array.isArray(value) ? [text, ...value.slice(1)] : text };
      };
      for (const at of bytes.keys()) {
        const changed = Buffer.from(bytes);
        changed.writeUInt8(bytes.readUInt8(at) ^ (1 << ((at * 3 + 1) % 8)), at);
        await tryOut(`${member} byte ${at}`, put(changed));
      }
      for (const less of [1, 2, 16, bytes.length]) await tryOut(`${member} without ${less}`, put(bytes.subarray(0, bytes.length - less)));
      await tryOut(`${member} and more`, put(Buffer.concat([bytes, Buffer.of(0)])));
      await tryOut(`no ${member}`, { ...honest, [member]: undefined });
    }
    expect(wrong).toEqual([]);
    expect(tried).toBeGreaterThan(2_500);
    // Most is refused before anything is asked; what is bound by the credential alone, the TPM refuses.
    expect(asked).toBeLessThan(tried / 10);
    const changes = (answer: Buffer): Buffer[] => {
      const parts = JSON.parse(answer.toString()) as Record<string, string>;
      return Object.entries(parts).flatMap(([member, text]) => {
        const bytes = Buffer.from(text, 'base64');
        return [0, 1, bytes.length >> 1, bytes.length - 1].map((at) => {
          const changed = Buffer.from(bytes);
          changed.writeUInt8(bytes.readUInt8(at) ^ 1, at);
          return Buffer.from(JSON.stringify({ ...parts, [member]: changed.toString('base64') }));
        });
      });
    };
    for (let index = 0; index < 8; index += 1) {
      const outcome = await outcomeOf(show(evidence.payload, async (challenge) => changes(Buffer.from(await evidence.answer(challenge)))[index] ?? none));
      expect(outcome, `response ${index}`).toMatchObject({ kind: 'denied', reason: 'tpm-devid.refused' });
    }
    expect(await tpm.handles()).toEqual([]);
  });

  it('is not convinced by keys that the TPM does not keep to itself', async () => {
    const devid = await tpm.provision('loose', devidRoot, { attributes: devidAttributes.replace('fixedtpm|fixedparent|', '') });
    await expect(attest(optionsFor(devid))).rejects.toMatchObject({
      kind: 'denied',
      reason: 'tpm-devid.refused',
      message: expect.stringContaining('DevID key is not a signing key that its TPM made and keeps') as string,
    });
  });
});
