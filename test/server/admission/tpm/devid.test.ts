import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createTpmDevidVerifier } from '../../../../server/admission/tpm/devid.ts';
import type { VerifiedNode } from '../../../../server/admission/verifier.ts';
import { encodeName } from '../../../../spiffe/x509/encoded.ts';
import { keyUsage, oid } from '../../../../spiffe/x509/names.ts';
import { authorityCalled, createDevidWorld, devidCertificate, encodeJson, endorsementCertificate, readChallenge, type DevidNode, type Shown } from '../../../help/devid.ts';
import { authorityExtensions, extension } from '../../../help/forge.ts';
import { exampleOrg, idOf } from '../../../help/store.ts';
import { areaName, areaOf, endorsementPolicies, keyAttributes, signatureOf, softAttestationKey, softEndorsementKey, softKey, statementOf, type SoftKey } from '../../../help/tpm.ts';

const at = Date.UTC(2026, 5, 1);
const world = createDevidWorld();
const { devidRoot, devidIssuer, endorsementRoot } = world;
const verifier = createTpmDevidVerifier({ devidAuthorities: [devidRoot.certificate], endorsementAuthorities: [endorsementRoot.certificate] });
const honest = world.node();
const ecc = world.node({ devid: 'P-256', endorsement: 'P-256', attestation: 'P-256' });
const stranger = world.node();

interface Recorded {
  readonly at: number;
  readonly devidAuthorities: readonly string[];
  readonly endorsementAuthorities: readonly string[];
  readonly evidence: Record<'DevIDPub' | 'EKCert' | 'EKPub' | 'AKPub' | 'CertifiedDevID' | 'CertificationSignature', string>;
}

type Answer = (challenge: Uint8Array) => Uint8Array;
const context = { trustDomain: exampleOrg, remoteAddress: '192.0.2.1', at };
const answering = (node: DevidNode): Answer => (challenge) => encodeJson(node.answer(challenge));

function show(payload: Uint8Array, answer: Answer): Promise<VerifiedNode> {
  return verifier.verify(payload, async (challenge) => Buffer.from(answer(challenge)), context);
}

/** Stands for an answer of a TPM that refuses to give one. */
const answersAnyway = (node: DevidNode): Answer => (challenge) => {
  try {
    return encodeJson(node.answer(challenge));
  } catch {
    return encodeJson({ DevID: sign('sha256', readChallenge(challenge).nonce, node.devid.privateKey), CredActivation: Buffer.alloc(32) });
  }
};

const showParts = (parts: Partial<Record<keyof Shown, unknown>>, node: DevidNode = honest): Promise<VerifiedNode> =>
  show(encodeJson({ ...node.shown, ...parts }), answersAnyway(node));

const sha1 = (der: Uint8Array): string => createHash('sha1').update(der).digest('hex');
const certifying = (name: Uint8Array, signer: SoftKey, form: { magic?: number; type?: number } = {}): Pick<Shown, 'CertifiedDevID' | 'CertificationSignature'> => {
  const statement = statementOf({ name, ...form });
  return { CertifiedDevID: statement, CertificationSignature: signatureOf(statement, signer.privateKey) };
};

describe('createTpmDevidVerifier', () => {
  it.each([
    { devid: 'rsa', endorsement: 'rsa', attestation: 'rsa' },
    { devid: 'P-256', endorsement: 'P-256', attestation: 'P-256' },
    { devid: 'P-384', endorsement: 'P-384', attestation: 'rsa' },
    { devid: 'rsa', endorsement: 'P-384', attestation: 'P-256' },
    { devid: 'P-384', endorsement: 'rsa', attestation: 'P-256' },
    { devid: 'P-256', endorsement: 'P-256', attestation: 'rsa' },
  ] as const)(
    'believes a TPM with a DevID of $devid, endorsed by $endorsement, stating by $attestation',
    async (kinds) => {
      const node = world.node(kinds);
      await expect(show(encodeJson(node.shown), answering(node))).resolves.toEqual({
        agentId: idOf(`/spire/agent/tpm_devid/${sha1(node.shown.DevIDCert[0]!)}`),
        selectors: [
          'tpm_devid:subject:cn:device-1',
          'tpm_devid:issuer:cn:DevID Issuer',
          `tpm_devid:ca:fingerprint:${sha1(devidIssuer.certificate)}`,
          `tpm_devid:ca:fingerprint:${sha1(devidRoot.certificate)}`,
        ],
        canReattest: true,
        tokenHash: undefined,
      });
    },
  );

  it('leaves out selectors of names that are not there', async () => {
    const bare = devidCertificate(devidIssuer, honest.devid, { subject: encodeName([[oid.organization, 'Acme']]) });
    const { selectors } = await showParts({ DevIDCert: [bare, devidIssuer.certificate] });
    expect(selectors).toEqual(['tpm_devid:issuer:cn:DevID Issuer', ...[devidIssuer, devidRoot].map(({ certificate }) => `tpm_devid:ca:fingerprint:${sha1(certificate)}`)]);
  });

  it('believes keys without a scheme of their own, endorsements without a purpose, certificates that end in 9999', async () => {
    const devid: SoftKey = { ...honest.devid, area: areaOf({ key: honest.devid.publicKey, attributes: keyAttributes.devid }) };
    const forever: readonly [number, number] = [Date.UTC(2020, 0, 1), Date.UTC(9999, 11, 31, 23, 59, 59)];
    await expect(
      showParts({
        DevIDPub: devid.area,
        DevIDCert: [devidCertificate(devidIssuer, devid, { validity: forever, extensions: null }), devidIssuer.certificate],
        EKCert: endorsementCertificate(endorsementRoot, honest.endorsement, { validity: forever, extensions: [extension.usage(keyUsage.digitalSignature)] }),
        ...certifying(areaName(devid.area), honest.attestation),
      }),
    ).resolves.toMatchObject({ canReattest: true });
  });

  it('poses a fresh nonce and a fresh credential, in the members SPIRE’s agents read', async () => {
    const posed: string[] = [];
    const spy: Answer = (challenge) => {
      posed.push(Buffer.from(challenge).toString());
      return answering(honest)(challenge);
    };
    await show(encodeJson(honest.shown), spy);
    await show(encodeJson(honest.shown), spy);
    const [first, second] = posed.map((text) => JSON.parse(text) as { DevID: string; CredActivation: { Credential: string; Secret: string } });
    expect(Object.keys(first!)).toEqual(['DevID', 'CredActivation']);
    expect(Object.keys(first!.CredActivation)).toEqual(['Credential', 'Secret']);
    const { nonce, credential, secret } = readChallenge(Buffer.from(posed[0]!));
    expect([nonce.length, credential.length, secret.length]).toEqual([32, 2 + 32 + 2 + 32, 256]);
    expect(new Set([first!.DevID, second!.DevID, first!.CredActivation.Credential, second!.CredActivation.Credential]).size).toBe(4);
  });

  const other = softKey('P-256', { attributes: keyAttributes.devid, scheme: [0x0018, 0x000b] });
  const withAttributes = (key: SoftKey, bits: number, form: object = {}): SoftKey => ({ ...key, area: areaOf({ key: key.publicKey, attributes: bits, scheme: [0x0014, 0x000b], ...form }) });
  const weakened = (bits: number): Partial<Shown> => {
    const attestation = withAttributes(honest.attestation, bits);
    return { AKPub: attestation.area, ...certifying(areaName(honest.devid.area), attestation) };
  };
  const looser = (bits: number): Partial<Shown> => {
    const devid = withAttributes(honest.devid, bits, { scheme: [0x0018, 0x000b] });
    return { DevIDPub: devid.area, ...certifying(areaName(devid.area), honest.attestation) };
  };
  const endorsed = (form: object): Partial<Shown> => ({
    EKPub: areaOf({ key: honest.endorsement.publicKey, attributes: keyAttributes.endorsement, aesBits: 128, policy: endorsementPolicies.low, ...form }),
  });
  const software = softEndorsementKey('rsa');
  const ak = keyAttributes.attestation;
  const dk = keyAttributes.devid;
  const refusals: readonly (readonly [name: string, parts: Partial<Shown>])[] = [
    ['another attestation key', { AKPub: stranger.attestation.area }],
    ['another attestation key with a statement of its own', { AKPub: stranger.attestation.area, ...certifying(areaName(honest.devid.area), stranger.attestation) }],
    ['another endorsement key', { EKPub: stranger.endorsement.area }],
    ['another endorsement certificate', { EKCert: stranger.shown.EKCert }],
    ['another TPM’s endorsement', { EKPub: stranger.endorsement.area, EKCert: stranger.shown.EKCert }],
    ['another DevID certificate', { DevIDCert: stranger.shown.DevIDCert }],
    ['another DevID key', { DevIDPub: stranger.devid.area }],
    ['another DevID', { DevIDCert: stranger.shown.DevIDCert, DevIDPub: stranger.devid.area }],
    ['another TPM’s statement', { CertifiedDevID: stranger.shown.CertifiedDevID, CertificationSignature: stranger.shown.CertificationSignature }],
    ['a statement of another object', certifying(areaName(other.area), honest.attestation)],
    ['a statement of the attestation key itself', certifying(areaName(honest.attestation.area), honest.attestation)],
    ['a statement of a name without a digest', certifying(Buffer.of(0, 0x0b), honest.attestation)],
    ['a statement that no TPM generated', certifying(areaName(honest.devid.area), honest.attestation, { magic: 0xff54_4348 })],
    ['a quote', certifying(areaName(honest.devid.area), honest.attestation, { type: 0x8018 })],
    ['a signature of another scheme', { CertificationSignature: signatureOf(honest.shown.CertifiedDevID, honest.attestation.privateKey, 0x0016) }],
    ['a signature of another key', { CertificationSignature: signatureOf(honest.shown.CertifiedDevID, stranger.attestation.privateKey) }],
    ['a signature of a kind the attestation key cannot make', { CertificationSignature: signatureOf(honest.shown.CertifiedDevID, honest.devid.privateKey) }],
    ['an attestation key that signs anything', weakened(ak & ~0x1_0000)],
    ['an attestation key that may leave its TPM', weakened(ak & ~0x2)],
    ['an attestation key that may leave its parent', weakened(ak & ~0x10)],
    ['an attestation key that was brought along', weakened(ak & ~0x20)],
    ['an attestation key that does not sign', weakened(ak & ~0x4_0000)],
    ['an attestation key that decrypts', weakened(ak | 0x2_0000)],
    ['an attestation key without a scheme', { AKPub: areaOf({ key: honest.attestation.publicKey, attributes: ak }) }],
    ['a DevID key that may leave its TPM', looser(dk & ~0x2)],
    ['a DevID key that may leave its parent', looser(dk & ~0x10)],
    ['a DevID key that was brought along', looser(dk & ~0x20)],
    ['a DevID key that does not sign', looser(dk & ~0x4_0000)],
    ['a DevID key that decrypts', looser(dk | 0x2_0000)],
    ['a DevID key that signs only statements', looser(dk | 0x1_0000)],
    ['an endorsement key that signs', endorsed({ attributes: keyAttributes.endorsement | 0x4_0000 })],
    ['an endorsement key that decrypts anything', endorsed({ attributes: keyAttributes.endorsement & ~0x1_0000 })],
    ['an endorsement key that protects nothing', endorsed({ aesBits: undefined })],
    ['an endorsement key of another policy', endorsed({ policy: Buffer.alloc(32) })],
    ['an endorsement key without a policy', endorsed({ policy: Buffer.alloc(0) })],
    ['an endorsement key with another name algorithm', endorsed({ nameHash: 0x000c })],
    ['an endorsement by nobody', { EKCert: endorsementCertificate(authorityCalled('TPM Maker'), honest.endorsement) }],
    ['an endorsement by a DevID authority', { EKCert: endorsementCertificate(devidRoot, honest.endorsement) }],
    ['an expired endorsement', { EKCert: endorsementCertificate(endorsementRoot, honest.endorsement, { validity: [Date.UTC(2020, 0, 1), Date.UTC(2021, 0, 1)] }) }],
    ['a certificate of the maker’s for another purpose', { EKPub: software.area, EKCert: endorsementCertificate(endorsementRoot, software, { extensions: [extension.purposes(oid.serverAuth)] }) }],
    ['a certificate of the maker’s for an authority', { EKPub: software.area, EKCert: endorsementCertificate(endorsementRoot, software, { extensions: authorityExtensions() }) }],
    ['a DevID by nobody', { DevIDCert: [devidCertificate(authorityCalled('DevID Root'), honest.devid)] }],
    ['a DevID by a maker of TPMs', { DevIDCert: [devidCertificate(endorsementRoot, honest.devid)] }],
    ['a DevID without its path', { DevIDCert: honest.shown.DevIDCert.slice(0, 1) }],
    ['a DevID that is an authority', { DevIDCert: [devidCertificate(devidIssuer, honest.devid, { extensions: authorityExtensions() }), devidIssuer.certificate] }],
    ['a DevID that is not meant to sign', { DevIDCert: [devidCertificate(devidIssuer, honest.devid, { extensions: [extension.usage(keyUsage.keyEncipherment)] }), devidIssuer.certificate] }],
    ['a DevID that is not valid yet', { DevIDCert: [devidCertificate(devidIssuer, honest.devid, { validity: [at + 1_000, at + 2_000] }), devidIssuer.certificate] }],
    ['a DevID certificate for a key in software', { DevIDCert: [devidCertificate(devidIssuer, other), devidIssuer.certificate] }],
  ];
  it.each(refusals)('T-B07: refuses %s', async (_name, parts) => {
    const refusal = await showParts(parts).then(() => undefined, (error: unknown) => error);
    expect(refusal).toMatchObject({ reason: expect.stringMatching(/^tpm-devid\.(?:refused|malformed)$/) as string, message: expect.stringMatching(/^nodeattestor\(tpm_devid\): /) as string });
  });

  const never: Answer = () => {
    throw new Error('no challenge may be posed');
  };
  const small = generateKeyPairSync('rsa', { modulusLength: 1024 });
  const offCurve = areaOf({ key: softAttestationKey('P-256').publicKey, attributes: ak, scheme: [0x0018, 0x000b] });
  offCurve.fill(0x01, offCurve.length - 4);
  const smallArea = areaOf({ key: small.publicKey, attributes: dk, scheme: [0x0014, 0x000b] });
  const foreignCurve = generateKeyPairSync('ec', { namedCurve: 'P-521' });
  const withParts = (parts: object): Uint8Array => encodeJson({ ...honest.shown, ...parts });
  const malformed: readonly (readonly [name: string, payload: Uint8Array])[] = [
    ['not JSON', Buffer.from('{')],
    ['a list', Buffer.from('[]')],
    ['nothing', Buffer.from('{}')],
    ['a repeated member', Buffer.from(`${encodeJson(honest.shown).toString().slice(0, -1)},"AKPub":"AAAA"}`)],
    ['members in another case', Buffer.from(encodeJson(honest.shown).toString().replace('AKPub', 'akpub'))],
    ['base64url', Buffer.from(encodeJson(honest.shown).toString().replaceAll('+', '-').replaceAll('/', '_'))],
    ['no DevID certificates', withParts({ DevIDCert: [] })],
    ['T-B05: a hundred DevID certificates', withParts({ DevIDCert: Array.from({ length: 100 }, () => honest.shown.DevIDCert[0]) })],
    ['T-B05: more bytes than any evidence', Buffer.alloc(70_000, 0x20)],
    ['T-B05: a public area beyond any TPM', withParts({ DevIDPub: Buffer.alloc(5_000) })],
    ['T-B05: RSA of 1024 bits', withParts({ DevIDPub: smallArea })],
    ['P-521', withParts({ DevIDPub: Buffer.concat([areaOf({ key: foreignCurve.publicKey, attributes: dk }).fill(0x05, 15, 16)]) })],
    ['a point off its curve', withParts({ AKPub: offCurve, CertificationSignature: signatureOf(honest.shown.CertifiedDevID, honest.devid.privateKey) })],
    ['a public area with its size in front', withParts({ AKPub: Buffer.concat([Buffer.of(0, honest.attestation.area.length), honest.attestation.area]) })],
    ...(['DevIDPub', 'EKCert', 'EKPub', 'AKPub', 'CertifiedDevID', 'CertificationSignature'] as const).flatMap((member) => [
      [`no ${member}`, withParts({ [member]: undefined })] as const,
      [`null for ${member}`, withParts({ [member]: null })] as const,
      [`a number for ${member}`, withParts({ [member]: 1 })] as const,
    ]),
    ...(['DevIDPub', 'EKCert', 'EKPub', 'AKPub', 'CertificationSignature'] as const).flatMap((member) => [
      [`${member} with a byte too many`, withParts({ [member]: Buffer.concat([honest.shown[member], Buffer.of(0)]) })] as const,
      [`${member} with a byte too few`, withParts({ [member]: honest.shown[member].subarray(0, -1) })] as const,
    ]),
  ];
  it.each(malformed)('refuses %s before it asks anything', async (_name, payload) => {
    await expect(show(payload, never)).rejects.toMatchObject({ kind: 'invalid', reason: 'tpm-devid.malformed' });
  });

  const tampered = (change: (answer: { DevID: Uint8Array; CredActivation: Uint8Array }, challenge: Uint8Array) => object): Answer => (challenge) =>
    encodeJson(change(honest.answer(challenge), challenge));
  const responses: readonly (readonly [name: string, answer: Answer, kind: 'denied' | 'invalid'])[] = [
    ['the wrong secret', tampered((answer) => ({ ...answer, CredActivation: Buffer.alloc(32, 7) })), 'denied'],
    ['a secret cut short', tampered((answer) => ({ ...answer, CredActivation: answer.CredActivation.subarray(0, 31) })), 'denied'],
    ['a secret with more after it', tampered((answer) => ({ ...answer, CredActivation: Buffer.concat([answer.CredActivation, Buffer.of(0)]) })), 'denied'],
    ['the nonce for the secret', tampered((answer, challenge) => ({ ...answer, CredActivation: readChallenge(challenge).nonce })), 'denied'],
    ['the signature of another key', tampered((answer, challenge) => ({ ...answer, DevID: sign('sha256', readChallenge(challenge).nonce, stranger.devid.privateKey) })), 'denied'],
    ['a signature over something else', tampered((answer) => ({ ...answer, DevID: sign('sha256', Buffer.alloc(32), honest.devid.privateKey) })), 'denied'],
    ['a signature in SHA-384', tampered((answer, challenge) => ({ ...answer, DevID: sign('sha384', readChallenge(challenge).nonce, honest.devid.privateKey) })), 'denied'],
    ['a signature as two plain numbers', tampered((answer, challenge) => ({ ...answer, DevID: sign('sha256', readChallenge(challenge).nonce, { key: honest.devid.privateKey, dsaEncoding: 'ieee-p1363' }) })), 'denied'],
    ['a signature of zeros', tampered((answer) => ({ ...answer, DevID: Buffer.from('3006020100020100', 'hex') })), 'denied'],
    ['no signature', tampered(({ CredActivation }) => ({ CredActivation })), 'invalid'],
    ['no secret', tampered(({ DevID }) => ({ DevID, CredActivation: null })), 'invalid'],
    ['a list', () => Buffer.from('[]'), 'invalid'],
    ['nothing', () => Buffer.alloc(0), 'invalid'],
    ['too much', () => Buffer.alloc(5_000, 0x20), 'invalid'],
  ];
  it.each(responses)('does not take %s for an answer', async (_name, answer, kind) => {
    await expect(show(encodeJson(honest.shown), answer)).rejects.toMatchObject({ kind, reason: kind === 'denied' ? 'tpm-devid.refused' : 'tpm-devid.malformed' });
  });

  it('does not take an answer to an earlier challenge', async () => {
    let earlier: Uint8Array = Buffer.alloc(0);
    await show(encodeJson(honest.shown), (challenge) => (earlier = answering(honest)(challenge)));
    await expect(show(encodeJson(honest.shown), () => earlier)).rejects.toMatchObject({ kind: 'denied', reason: 'tpm-devid.refused' });
  });

  it('does not take half an answer each of two challenges', async () => {
    let earlier = { DevID: Buffer.alloc(0) as Uint8Array, CredActivation: Buffer.alloc(0) as Uint8Array };
    await show(encodeJson(honest.shown), (challenge) => encodeJson((earlier = honest.answer(challenge))));
    for (const member of ['DevID', 'CredActivation'] as const) {
      await expect(show(encodeJson(honest.shown), tampered((answer) => ({ ...answer, [member]: earlier[member] })))).rejects.toMatchObject({ kind: 'denied' });
    }
  });

  it('lets a failing connection fail', async () => {
    await expect(show(encodeJson(honest.shown), () => { throw new Error('gone'); })).rejects.toThrow('gone');
  });
});

describe('T-B07: mutated exchanges', () => {
  /** Every bit matters: which one of a byte is flipped follows from where it stands. */
  const flipped = (bytes: Uint8Array, at: number): Uint8Array => Uint8Array.from(bytes, (octet, index) => (index === at ? octet ^ (1 << (at * 5 + 3) % 8) : octet));
  /** The rest of it; the engines' tests leave none out. */
  const every = <T>(bytes: Uint8Array, make: (at: number) => T): T[] => Array.from(bytes.keys()).filter((at) => at < 40 || at % 4 === 0).map(make);
  const refused = (outcome: unknown): boolean => outcome !== 'accepted';
  const outcomeOf = (shown: Promise<unknown>): Promise<unknown> => shown.then(() => 'accepted', (error: unknown) => error);

  it('accepts none of more than a thousand payloads with one bit changed, or cut, in any part', async () => {
    const wrong: string[] = [];
    let tried = 0;
    const members = ['DevIDPub', 'EKCert', 'EKPub', 'AKPub', 'CertifiedDevID', 'CertificationSignature'] as const;
    const replaced: [string, object][] = members.flatMap((member) => {
      const bytes = ecc.shown[member];
      return [
        ...Array.from(bytes.keys(), (at): [string, object] => [`${member} bit of byte ${at}`, { [member]: flipped(bytes, at) }]),
        ...[1, 2, 8, 31, bytes.length - 1].map((less): [string, object] => [`${member} without ${less}`, { [member]: bytes.subarray(0, bytes.length - less) }]),
      ];
    });
    const [leaf = new Uint8Array(), middle = new Uint8Array()] = ecc.shown.DevIDCert;
    for (const at of leaf.keys()) replaced.push([`leaf byte ${at}`, { DevIDCert: [flipped(leaf, at), middle] }]);
    for (const at of middle.keys()) replaced.push([`intermediate byte ${at}`, { DevIDCert: [leaf, flipped(middle, at)] }]);
    for (const [name, parts] of replaced) {
      tried += 1;
      const outcome = await outcomeOf(showParts(parts, ecc));
      if (!refused(outcome) || !(outcome instanceof Error && 'reason' in outcome && String(outcome.reason).startsWith('tpm-devid.'))) wrong.push(`${name}: ${String(outcome)}`);
    }
    expect(wrong).toEqual([]);
    expect(tried).toBeGreaterThan(1_200);
  });

  it('poses nothing for what an emulated TPM stated once any bit of it is changed', async () => {
    const { at: recordedAt, devidAuthorities, endorsementAuthorities, evidence } = JSON.parse(readFileSync(new URL('../../../vectors/tpm-devid.json', import.meta.url), 'utf8')) as Recorded;
    const ders = (texts: readonly string[]): Uint8Array[] => texts.map((text) => Uint8Array.from(Buffer.from(text, 'base64')));
    const recorded = createTpmDevidVerifier({ devidAuthorities: ders(devidAuthorities), endorsementAuthorities: ders(endorsementAuthorities) });
    const posed = async (shown: object): Promise<boolean> => {
      let asked = false;
      const ask = (): Promise<never> => {
        asked = true;
        throw new Error('nobody there to answer');
      };
      await expect(recorded.verify(Buffer.from(JSON.stringify(shown)), ask, { ...context, at: recordedAt })).rejects.toThrow();
      return asked;
    };
    expect(await posed(evidence)).toBe(true);
    const wrong: string[] = [];
    // The attestation key is left out: its name is for the credential to hold it to.
    for (const member of ['DevIDPub', 'EKCert', 'EKPub', 'CertifiedDevID', 'CertificationSignature'] as const) {
      const bytes = Buffer.from(evidence[member], 'base64');
      for (const [index, changed] of every(bytes, (at): [number, Uint8Array] => [at, flipped(bytes, at)])) {
        if (await posed({ ...evidence, [member]: Buffer.from(changed).toString('base64') })) wrong.push(`${member} byte ${index}`);
      }
    }
    expect(wrong).toEqual([]);
  });

  it('accepts none of the responses with one bit changed', async () => {
    const wrong: string[] = [];
    const payload = encodeJson(honest.shown);
    for (let at = 0; at < 72; at += 2) {
      for (const member of ['DevID', 'CredActivation'] as const) {
        const answer: Answer = (challenge) => {
          const right = honest.answer(challenge);
          return encodeJson({ ...right, [member]: flipped(right[member], at % right[member].length) });
        };
        if (!refused(await outcomeOf(show(payload, answer)))) wrong.push(`${member} byte ${at}`);
      }
    }
    expect(wrong).toEqual([]);
  });
});
