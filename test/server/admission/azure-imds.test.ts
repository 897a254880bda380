import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createAzureImdsVerifier, readMachine, type AzureImdsOptions } from '../../../server/admission/azure-imds.ts';
import { readSignedData, verifySignedData } from '../../../server/admission/cms.ts';
import type { VerifiedNode, Verifier } from '../../../server/admission/verifier.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { formatPemCertificates } from '../../../spiffe/pem.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { encode, encodeSmallInteger } from '../../../spiffe/x509/der-writer.ts';
import { encodeExtension } from '../../../spiffe/x509/encoded.ts';
import { keyUsage, oid } from '../../../spiffe/x509/names.ts';
import { authorityExtensions, ecPair, extension, forgeCertificate, nameOf, rsaPair, type CertificateForm, type Pair } from '../../help/forge.ts';
import { exampleOrg, idOf } from '../../help/store.ts';
import { attributesOf, base64, lookalikes, messageOf, oids, signerInfo, streamOf, withNull, wrongValues, type MessageForm, type Mutant, type Signing } from '../../vectors/documents.ts';
import { damaged, forgeries, forgeryReasons, type Seed } from '../../vectors/forged-messages.ts';

const at = Date.UTC(2026, 5, 1);
const nonce = '0123456789abcdef0123456789abcdef';
const domain = 'metadata.azure.com';
const usages = keyUsage.digitalSignature | keyUsage.keyEncipherment;

const root = ecPair();
const issuing = ecPair();
const azure = rsaPair();
const stranger = rsaPair();
const strangersRoot = ecPair();

function authorityOf(pair: Pair, subject: string, signer: Pair, issuer: string, form: Partial<CertificateForm> = {}): Uint8Array {
  return forgeCertificate({ signer: signer.privateKey, spki: pair.spki, subject: nameOf(subject), issuer: nameOf(issuer), extensions: authorityExtensions(), ...form });
}

interface Leaf {
  readonly der: Uint8Array;
  readonly signing: Signing;
}

interface LeafForm {
  readonly pair?: Pair;
  readonly signer?: Pair;
  readonly issuer?: string;
  readonly serial?: number;
  readonly names?: readonly string[];
  readonly purposes?: readonly string[] | null;
  readonly usage?: number;
  readonly isAuthority?: boolean;
  readonly subject?: string;
  readonly validity?: readonly [number, number];
  readonly more?: readonly Uint8Array[];
}

let serials = 1000;

function leafOf(form: LeafForm = {}): Leaf {
  const { pair = azure, signer = issuing, issuer = 'issuing', names = [domain, `eastus.${domain}`] } = form;
  const { purposes = [oid.serverAuth, oid.clientAuth], usage = usages, isAuthority = false, subject = domain, more = [] } = form;
  serials += 1;
  const serial = encodeSmallInteger(form.serial ?? serials);
  const extensions = [
    extension.usage(usage),
    ...(purposes === null ? [] : [extension.purposes(...purposes)]),
    ...(names.length === 0 ? [] : [extension.names(names, [])]),
    extension.basic(isAuthority),
    ...more,
  ];
  const validity = form.validity ?? [Date.UTC(2026, 0, 1), Date.UTC(2027, 0, 1)];
  const der = forgeCertificate({ signer: signer.privateKey, spki: pair.spki, subject: nameOf(subject), issuer: nameOf(issuer), serial, validity, extensions });
  return { der, signing: { key: pair.privateKey, issuer: nameOf(issuer), serial } };
}

const rootDer = authorityOf(root, 'root', root, 'root');
const issuingDer = authorityOf(issuing, 'issuing', root, 'root');
const oldIssuing = authorityOf(issuing, 'old issuing', root, 'root', { validity: [Date.UTC(2020, 0, 1), Date.UTC(2026, 0, 1)] });
const signer = leafOf();

const tenantId = '72f988bf-86f1-41af-91ab-2d7cd011db47';
const facts = {
  licenseType: '',
  nonce,
  plan: { name: '', product: '', publisher: '' },
  sku: '22_04-lts-gen2',
  subscriptionId: '5f130ffc-0a3e-4795-b691-4f56a12a5547',
  timeStamp: { createdOn: '06/01/26 00:00:00 -0000', expiresOn: '06/01/26 06:00:00 -0000' },
  vmId: 'bd8e7443-24a0-41f3-b949-8baf4fd1c573',
} as const;

const options: AzureImdsOptions = {
  tenants: [
    { tenantId, subscriptions: [facts.subscriptionId, '0afbfffa-5df9-4a3b-987e-fe7577624272'] },
    { tenantId: '11111111-1111-1111-1111-111111111111', subscriptions: ['22222222-2222-2222-2222-222222222222'] },
  ],
  roots: formatPemCertificates([rootDer]),
  intermediates: formatPemCertificates([issuingDer, oldIssuing]),
};
const verifier = createAzureImdsVerifier(options, () => nonce);

function documentOf(change: Readonly<Record<string, unknown>> = {}): string {
  return JSON.stringify({ ...facts, ...change });
}

function formOf(content: Uint8Array, leaf: Leaf, change: Partial<MessageForm> = {}): MessageForm {
  const names = { digestName: withNull(oids.rsaSha256), algorithm: withNull(oids.rsa) };
  return { content, signers: [signerInfo(content, { ...leaf.signing, ...names })], digestNames: [names.digestName], certificates: [leaf.der], ...change };
}

function evidenceOf(message: Uint8Array, more: Readonly<Record<string, unknown>> = {}): Uint8Array {
  const document = { encoding: 'pkcs7', signature: base64(message) };
  return Buffer.from(JSON.stringify({ document, metadata: { agentDomain: 'example.onmicrosoft.com', vmssName: null }, ...more }));
}

/** What a machine answers when Azure signs this document of it. */
function signedEvidence(document: string, leaf: Leaf = signer, change: Partial<MessageForm> = {}): Uint8Array {
  return evidenceOf(messageOf(formOf(Buffer.from(document), leaf, change)));
}

const honestMessage = messageOf(formOf(Buffer.from(documentOf()), signer));
const honest = evidenceOf(honestMessage);
const honestNode: VerifiedNode = {
  agentId: idOf(`/spire/agent/azure_imds/${tenantId}/${facts.subscriptionId}/${facts.vmId}`),
  selectors: [`azure_imds:subscription-id:${facts.subscriptionId}`] as never,
  canReattest: false,
  firstUseOnly: true,
  tokenHash: undefined,
};

/** What SPIRE's agents send to be challenged. */
const opening = Buffer.from('non_empty_payload');

function show(evidence: Uint8Array, instant = at, by: Verifier = verifier): Promise<VerifiedNode> {
  return by.verify(opening, async () => evidence, { trustDomain: exampleOrg, remoteAddress: '192.0.2.1', at: instant });
}

interface Outcome {
  readonly reason: string;
  readonly cause: string | undefined;
  readonly kind: string | undefined;
}

async function outcomeOf(evidence: Uint8Array, instant = at, by: Verifier = verifier): Promise<Outcome> {
  try {
    await show(evidence, instant, by);
    return { reason: 'accepted', cause: undefined, kind: undefined };
  } catch (error) {
    if (!(error instanceof SpiffeError)) throw error;
    return { reason: error.reason, kind: error.kind, cause: error.cause instanceof SpiffeError ? error.cause.reason : undefined };
  }
}

describe('createAzureImdsVerifier', () => {
  it('tells of a machine what its document says, once', async () => {
    expect(await show(honest)).toEqual(honestNode);
  });

  it('poses another nonce each time, of letters and digits', async () => {
    const fresh = createAzureImdsVerifier(options);
    const posed = new Set<string>();
    for (let round = 0; round < 20; round += 1) {
      const answer = async (challenge: Uint8Array): Promise<Uint8Array> => {
        posed.add(String(Buffer.from(challenge)));
        return signedEvidence(documentOf({ nonce: String(Buffer.from(challenge)) }));
      };
      expect(await fresh.verify(opening, answer, { trustDomain: exampleOrg, remoteAddress: '192.0.2.1', at })).toEqual(honestNode);
    }
    expect(posed.size).toBe(20);
    expect([...posed].every((one) => /^[0-9a-z]{32}$/.test(one))).toBe(true);
    expect(await outcomeOf(honest, at, fresh)).toMatchObject({ reason: 'azure-imds.nonce' });
  });

  it('passes on that nothing was answered, and does not listen to long openings', async () => {
    const context = { trustDomain: exampleOrg, remoteAddress: '192.0.2.1', at };
    const gone = new SpiffeError('unavailable', 'test.gone', 'gone');
    await expect(verifier.verify(opening, () => Promise.reject(gone), context)).rejects.toBe(gone);
    await expect(verifier.verify(new Uint8Array(5000), async () => honest, context)).rejects.toMatchObject({ reason: 'azure-imds.malformed' });
    await expect(verifier.verify(new Uint8Array(), async () => honest, context)).resolves.toEqual(honestNode);
  });

  it.each<[string, Readonly<Record<string, unknown>>]>([
    ['another tenant', { metadata: { agentDomain: '11111111-1111-1111-1111-111111111111', vmssName: 'set' } }],
    ['a scale set', { metadata: { agentDomain: 'x', vmssName: 'prod' }, tid: '11111111-1111-1111-1111-111111111111' }],
    ['nothing', { metadata: undefined }],
    ['another machine', { vmId: 'x', subscriptionId: 'y', content: documentOf({ vmId: '00000000-0000-0000-0000-000000000000' }) }],
  ])('does not listen to what a machine says of itself: %s', async (_name, more) => {
    expect(await show(evidenceOf(honestMessage, more))).toEqual(honestNode);
  });

  it.each([
    ['first', [signer.der, leafOf({ pair: stranger }).der, issuingDer]],
    ['last', [issuingDer, leafOf({ pair: stranger, signer: strangersRoot, issuer: 'strange' }).der, signer.der]],
    ['twice', [signer.der, issuingDer, signer.der]],
  ])('finds the signer wherever it is among the certificates: %s', async (_name, certificates) => {
    expect(await show(signedEvidence(documentOf(), signer, { certificates }))).toEqual(honestNode);
  });

  it.each([
    ['the name alone', [domain]],
    ['a region', [`westeurope.${domain}`]],
    ['deeper', [`a.b.${domain}`]],
    ['among others', ['example.org', domain]],
  ])('knows the metadata service by %s', async (_name, names) => {
    expect(await show(signedEvidence(documentOf(), leafOf({ names })))).toEqual(honestNode);
  });

  it('knows other clouds’ metadata services when told to, and then no more the first', async () => {
    const sovereign = createAzureImdsVerifier({ ...options, metadataDomains: ['metadata.azure.us'] }, () => nonce);
    const evidence = signedEvidence(documentOf(), leafOf({ names: ['usgovvirginia.metadata.azure.us'] }));
    expect(await show(evidence, at, sovereign)).toEqual(honestNode);
    expect(await outcomeOf(honest, at, sovereign)).toMatchObject({ reason: 'azure-imds.certificate' });
    expect(await outcomeOf(evidence)).toMatchObject({ reason: 'azure-imds.certificate' });
  });

  it('names the tenant of the subscription', async () => {
    const subscriptionId = '22222222-2222-2222-2222-222222222222';
    const { agentId } = await show(signedEvidence(documentOf({ subscriptionId })));
    expect(agentId).toBe(idOf(`/spire/agent/azure_imds/11111111-1111-1111-1111-111111111111/${subscriptionId}/${facts.vmId}`));
  });

  it('needs no instants, which the nonce makes up for', async () => {
    for (const timeStamp of [undefined, {}, { createdOn: facts.timeStamp.createdOn }]) {
      expect(await show(signedEvidence(documentOf({ timeStamp })))).toEqual(honestNode);
    }
  });

  it.each<[string, Partial<AzureImdsOptions>]>([
    ['no tenant', { tenants: [] }],
    ['no subscription', { tenants: [{ tenantId, subscriptions: [] }] }],
    ['every subscription', { tenants: [{ tenantId, subscriptions: ['*'] }] }],
    ['a tenant by name', { tenants: [{ tenantId: 'example.onmicrosoft.com', subscriptions: [facts.subscriptionId] }] }],
    ['a subscription of two tenants', { tenants: [...options.tenants, { tenantId: facts.vmId, subscriptions: [facts.subscriptionId] }] }],
    ['upper case', { tenants: [{ tenantId, subscriptions: [facts.subscriptionId.toUpperCase()] }] }],
    ['no name of the metadata service', { metadataDomains: [] }],
    ['a name for half the web', { metadataDomains: ['com'] }],
    ['a pattern', { metadataDomains: ['*.azure.com'] }],
    ['more intermediates than a chain may have', { intermediates: formatPemCertificates(Array.from({ length: 32 }, () => issuingDer)) }],
  ])('is not made with %s', (_name, change) => {
    expect(() => createAzureImdsVerifier({ ...options, ...change })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'azure-imds.options' }));
  });

  it('takes as many intermediates as Azure may have', async () => {
    const intermediates = formatPemCertificates([...Array.from({ length: 30 }, () => oldIssuing), issuingDer]);
    expect(await show(honest, at, createAzureImdsVerifier({ ...options, intermediates }, () => nonce))).toEqual(honestNode);
  });

  it('is not made without authorities', () => {
    for (const change of [{ roots: '' }, { intermediates: '' }, { roots: 'x' }]) {
      expect(() => createAzureImdsVerifier({ ...options, ...change })).toThrow(expect.objectContaining({ reason: 'pem.empty' }));
    }
  });
});

/** Reasons and kind that a family is refused for. */
const reasons: Readonly<Record<string, readonly [reasons: readonly string[], kind: string]>> = {
  ...Object.fromEntries(Object.keys(forgeryReasons).map((family) => [family, [['azure-imds.signature'], 'invalid'] as const])),
  // What is wrong may be in the certificate.
  'lengths of BER': [['azure-imds.signature', 'azure-imds.certificate'], 'invalid'],
  'strings of BER': [['azure-imds.signature', 'azure-imds.certificate'], 'invalid'],
  'one bit': [['azure-imds.signature', 'azure-imds.certificate'], 'invalid'],
  random: [['azure-imds.signature', 'azure-imds.certificate'], 'invalid'],
  'a stream': [['azure-imds.signature'], 'invalid'],
  'signer without an anchor': [['azure-imds.certificate'], 'invalid'],
  'signer beside an anchored one': [['azure-imds.certificate', 'azure-imds.signature'], 'invalid'],
  'signer not enclosed': [['azure-imds.signature'], 'invalid'],
  'signer not valid now': [['azure-imds.certificate'], 'invalid'],
  'signer for something else': [['azure-imds.certificate', 'azure-imds.signature'], 'invalid'],
  'signer of another name': [['azure-imds.certificate', 'azure-imds.signature'], 'invalid'],
  'another nonce': [['azure-imds.nonce'], 'invalid'],
  'not now': [['azure-imds.expired'], 'denied'],
  'of another subscription': [['azure-imds.subscription'], 'denied'],
  'claim that looks right': [['azure-imds.document'], 'invalid'],
  'claim of a wrong type': [['azure-imds.document'], 'invalid'],
  'claim missing': [['azure-imds.document'], 'invalid'],
  'claim twice': [['azure-imds.document'], 'invalid'],
  'time that is none': [['azure-imds.document'], 'invalid'],
  'document that is none': [['azure-imds.document'], 'invalid'],
  'evidence that is none': [['azure-imds.malformed'], 'invalid'],
  'evidence beyond measure': [['azure-imds.malformed', 'azure-imds.signature'], 'invalid'],
};
const inCertificate: ReadonlySet<string> = new Set(['lengths of BER', 'strings of BER']);

const victim = documentOf();
const attacker = documentOf({ vmId: 'aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa', subscriptionId: '0afbfffa-5df9-4a3b-987e-fe7577624272' });

const seed: Seed = {
  content: Buffer.from(victim),
  otherContent: Buffer.from(attacker),
  signing: signer.signing,
  certificates: [signer.der],
  foreign: { ...signer.signing, key: stranger.privateKey },
  digestName: withNull(oids.rsaSha256),
  algorithm: withNull(oids.rsa),
  hasAttributes: false,
};

function* mutants(): Generator<Mutant> {
  for (const { family, name, message } of [...forgeries(seed), ...damaged([honestMessage], 300)]) {
    yield { family, name, evidence: evidenceOf(message) };
  }
  yield { family: 'a stream', name: 'as Amazon writes', evidence: evidenceOf(streamOf(formOf(Buffer.from(victim), signer))) };
  const attributes = attributesOf(Buffer.from(victim));
  const asAmazon = { content: Buffer.from(victim), signers: [signerInfo(Buffer.from(victim), { ...signer.signing, attributes })], certificates: [signer.der] };
  yield { family: 'a stream', name: 'as Amazon signs', evidence: evidenceOf(streamOf(asAmazon)) };
  yield* wrongSigners();
  yield* wrongDocuments();
  yield* wrongEvidence();
}

function* wrongSigners(): Generator<Mutant> {
  const bags = (leaf: Leaf): readonly (readonly Uint8Array[])[] => [
    [leaf.der],
    [leaf.der, signer.der],
    [signer.der, leaf.der],
    [signer.der, issuingDer, rootDer, leaf.der],
    [rootDer, leaf.der, issuingDer],
  ];
  const strangersDer = authorityOf(strangersRoot, 'strange', strangersRoot, 'strange');
  const twinRoot = authorityOf(strangersRoot, 'root', strangersRoot, 'root');
  const unanchored: readonly (readonly [string, Leaf, readonly Uint8Array[]])[] = [
    ['signed by itself', leafOf({ pair: stranger, signer: stranger, issuer: domain }), []],
    ['of another root', leafOf({ pair: stranger, signer: strangersRoot, issuer: 'strange' }), [strangersDer]],
    ['of a root of the same name', leafOf({ pair: stranger, signer: strangersRoot, issuer: 'root' }), [twinRoot]],
    ['of an authority of the same name', leafOf({ pair: stranger, signer: strangersRoot, issuer: 'issuing' }), [authorityOf(strangersRoot, 'issuing', strangersRoot, 'root'), twinRoot]],
    ['below the signer itself', leafOf({ pair: stranger, signer: azure, issuer: domain }), [signer.der]],
    ['of an authority nobody configured', leafOf({ pair: stranger, signer: strangersRoot, issuer: 'new' }), [authorityOf(strangersRoot, 'new', root, 'root')]],
  ];
  for (const [name, leaf, more] of unanchored) {
    for (const [index, bag] of bags(leaf).entries()) {
      yield { family: 'signer without an anchor', name: `${name} ${index}`, evidence: signedEvidence(victim, leaf, { certificates: [...bag, ...more].slice(0, 8) }) };
    }
  }

  // The anchored certificate is named, the other one signs; and the other way round, with the same names on both.
  const own = leafOf({ pair: stranger, signer: strangersRoot, issuer: 'strange' });
  const twin = leafOf({ pair: stranger, signer: strangersRoot, issuer: 'issuing', serial: serials });
  const namesake = { der: forgeTwin(), signing: { ...signer.signing, key: stranger.privateKey } };
  for (const leaf of [own, twin, namesake]) {
    for (const [index, bag] of bags(leaf).entries()) {
      const named = { der: signer.der, signing: { ...signer.signing, key: stranger.privateKey } };
      yield { family: 'signer beside an anchored one', name: `names the anchored one ${index}`, evidence: signedEvidence(victim, named, { certificates: bag }) };
      yield { family: 'signer beside an anchored one', name: `names itself ${index}`, evidence: signedEvidence(victim, leaf, { certificates: bag }) };
    }
  }
  for (const certificates of [[signer.der, namesake.der], [namesake.der, signer.der], [namesake.der, rootDer, signer.der]]) {
    yield { family: 'signer beside an anchored one', name: `has a namesake, ${certificates.indexOf(signer.der)}`, evidence: signedEvidence(victim, signer, { certificates }) };
  }
  for (const certificates of [[], [issuingDer], [rootDer, issuingDer], [own.der]]) {
    yield { family: 'signer not enclosed', name: `${certificates.length} others`, evidence: signedEvidence(victim, signer, { certificates }) };
  }

  const family = 'signer not valid now';
  for (const [name, validity] of [
    ['expired', [Date.UTC(2025, 0, 1), Date.UTC(2026, 4, 31)]],
    ['not yet', [Date.UTC(2026, 5, 2), Date.UTC(2027, 0, 1)]],
  ] as const) {
    yield { family, name, evidence: signedEvidence(victim, leafOf({ validity })) };
  }
  yield { family, name: 'a moment late', evidence: honest, at: Date.UTC(2027, 0, 1) + 1 };
  yield { family, name: 'a moment early', evidence: honest, at: Date.UTC(2026, 0, 1) - 1 };
  yield { family, name: 'authority expired', evidence: signedEvidence(victim, leafOf({ issuer: 'old issuing' })) };

  const purposes: readonly (readonly [string, LeafForm])[] = [
    ['clients', { purposes: [oid.clientAuth] }],
    ['code', { purposes: ['1.3.6.1.5.5.7.3.3'] }],
    ['mail', { purposes: ['1.3.6.1.5.5.7.3.4'] }],
    ['anything', { purposes: [oid.anyExtKeyUsage] }],
    ['nothing told', { purposes: null }],
    ['encipherment', { usage: keyUsage.keyEncipherment }],
    ['signing certificates', { usage: keyUsage.keyCertSign | keyUsage.cRLSign }],
    ['an authority', { isAuthority: true, usage: usages | keyUsage.keyCertSign }],
    ['a critical extension that is unknown', { more: [encodeExtension('1.2.3.4', true, encode(0x05))] }],
    ['an elliptic key', { pair: ecPair() }],
    ['a short key', { pair: rsaPair(1024) }],
  ];
  for (const [name, form] of purposes) yield { family: 'signer for something else', name, evidence: signedEvidence(victim, leafOf(form)) };

  const names: readonly string[] = [
    'azure.com',
    'com',
    'example.org',
    `evil${domain}`,
    `evil-${domain}`,
    `${domain}.example.org`,
    `${domain}.`,
    `.${domain}`,
    `*.${domain}`,
    `-.${domain}`,
    `a..${domain}`,
    domain.toUpperCase(),
    `metadata-azure.com`,
    `metadata.azure.co`,
    `etadata.azure.com`,
    'metadata.azure.us',
    'metadata.azure.cn',
    `xn--metadata-abc.azure.com`,
    `https://${domain}`,
    `${domain}/x.example.org`,
    `${domain}:443`,
    `x@${domain}`,
    ` ${domain}`,
    `${domain} `,
    `${domain},example.org`,
    `example.org ${domain}`,
    `example.org\u0000.${domain}`,
    `${domain}\u0000.example.org`,
    `example_org.${domain}`,
    'management.azure.com',
    '169.254.169.254',
  ];
  for (const name of names) {
    yield { family: 'signer of another name', name, evidence: signedEvidence(victim, leafOf({ names: [name] })) };
    yield { family: 'signer of another name', name: `${name} with the right subject`, evidence: signedEvidence(victim, leafOf({ names: [name, 'example.org'], subject: domain })) };
  }
  yield { family: 'signer of another name', name: 'none but the subject', evidence: signedEvidence(victim, leafOf({ names: [] })) };
  const uris = forgeCertificate({
    signer: issuing.privateKey,
    spki: azure.spki,
    subject: nameOf(domain),
    issuer: nameOf('issuing'),
    serial: encodeSmallInteger(5),
    extensions: [extension.usage(usages), extension.purposes(oid.serverAuth), extension.names([], [`https://${domain}`]), extension.basic(false)],
  });
  yield { family: 'signer of another name', name: 'in a URI', evidence: signedEvidence(victim, { der: uris, signing: { ...signer.signing, serial: encodeSmallInteger(5) } }) };
}

/** A certificate of the stranger's under issuer and serial number of the honest signer. */
function forgeTwin(): Uint8Array {
  return forgeCertificate({
    signer: strangersRoot.privateKey,
    spki: stranger.spki,
    subject: nameOf(domain),
    issuer: signer.signing.issuer,
    serial: signer.signing.serial,
    validity: [Date.UTC(2026, 0, 1), Date.UTC(2027, 0, 1)],
    extensions: [extension.usage(usages), extension.purposes(oid.serverAuth), extension.names([domain], []), extension.basic(false)],
  });
}

function* wrongDocuments(): Generator<Mutant> {
  const nonces = ['', '0', nonce.slice(1), nonce.slice(0, -1), `${nonce}0`, nonce.toUpperCase(), nonce.split('').toReversed().join(''), '20220419-072721', ...lookalikes(nonce)];
  for (const [index, other] of nonces.entries()) {
    yield { family: 'another nonce', name: `${index}`, evidence: signedEvidence(documentOf({ nonce: other })) };
  }
  for (const [index, value] of wrongValues.entries()) {
    const family = typeof value === 'string' ? 'another nonce' : 'claim of a wrong type';
    yield { family, name: `nonce ${index}`, evidence: signedEvidence(documentOf({ nonce: value })) };
  }
  for (const [name, timeStamp] of [
    ['expired', { createdOn: '05/31/26 17:00:00 -0000', expiresOn: '05/31/26 23:54:59 -0000' }],
    ['long ago', { createdOn: '06/01/19 00:00:00 -0000', expiresOn: '06/01/19 06:00:00 -0000' }],
    ['to come', { createdOn: '06/01/26 00:05:01 -0000', expiresOn: '06/01/26 06:00:00 -0000' }],
    ['ends alone', { expiresOn: '05/31/26 23:54:59 -0000' }],
    ['begins alone', { createdOn: '06/02/26 00:00:00 -0000' }],
  ] as const) {
    yield { family: 'not now', name, evidence: signedEvidence(documentOf({ timeStamp })) };
  }
  for (const [index, time] of ['', 'x', '2026-06-01T00:00:00Z', '13/01/26 00:00:00 -0000', '02/30/26 00:00:00 -0000', '06/01/26 24:00:00 -0000', '06/01/26 00:00:00 +0200', '06/01/2026 00:00:00 -0000', '6/1/26 0:0:0 -0000', '06/01/26 00:00:00 -0000 ', 0, null, true, [], {}, 1_780_000_000].entries()) {
    yield { family: 'time that is none', name: `end ${index}`, evidence: signedEvidence(documentOf({ timeStamp: { ...facts.timeStamp, expiresOn: time } })) };
    yield { family: 'time that is none', name: `beginning ${index}`, evidence: signedEvidence(documentOf({ timeStamp: { ...facts.timeStamp, createdOn: time } })) };
  }
  for (const [index, timeStamp] of [null, 0, '', 'x', [], true].entries()) {
    yield { family: 'time that is none', name: `both ${index}`, evidence: signedEvidence(documentOf({ timeStamp })) };
  }
  for (const subscriptionId of ['00000000-0000-0000-0000-000000000000', tenantId, facts.vmId, '5f130ffc-0a3e-4795-b691-4f56a12a5548']) {
    yield { family: 'of another subscription', name: subscriptionId, evidence: signedEvidence(documentOf({ subscriptionId })) };
  }
  for (const claim of ['vmId', 'subscriptionId'] as const) {
    const right = facts[claim];
    for (const [index, value] of [...lookalikes(right), right.toUpperCase(), `{${right}}`, right.replaceAll('-', ''), `urn:uuid:${right}`, `${right}/..`, right.replace('-', '/'), `${right}${right}`, right.slice(1)].entries()) {
      yield { family: 'claim that looks right', name: `${claim} ${index}`, evidence: signedEvidence(documentOf({ [claim]: value })) };
    }
    for (const [index, value] of wrongValues.entries()) {
      yield { family: 'claim of a wrong type', name: `${claim} ${index}`, evidence: signedEvidence(documentOf({ [claim]: value })) };
    }
    yield { family: 'claim missing', name: claim, evidence: signedEvidence(documentOf({ [claim]: undefined })) };
    for (const value of [facts[claim], '00000000-0000-0000-0000-000000000000']) {
      const member = `${JSON.stringify(claim)}:${JSON.stringify(value)}`;
      yield { family: 'claim twice', name: `${member} before`, evidence: signedEvidence(victim.replace('{', `{${member},`)) };
      yield { family: 'claim twice', name: `${member} after`, evidence: signedEvidence(victim.replace(/\}$/, `,${member}}`)) };
    }
  }
  yield { family: 'claim missing', name: 'nonce', evidence: signedEvidence(documentOf({ nonce: undefined })) };
  yield { family: 'claim twice', name: 'nonce', evidence: signedEvidence(victim.replace('{', `{"nonce":"x",`)) };
  yield { family: 'claim twice', name: 'nonce escaped', evidence: signedEvidence(victim.replace('{', `{"\\u006eonce":"${nonce}",`)) };
  for (const document of ['null', '[]', '""', '{}', '{', 'x', `[${victim}]`, `${victim}${victim}`, `\ufeff${victim}`, `${'['.repeat(50)}${']'.repeat(50)}`]) {
    yield { family: 'document that is none', name: document.slice(0, 20), evidence: signedEvidence(document) };
  }
}

function* wrongEvidence(): Generator<Mutant> {
  const good = JSON.parse(String(Buffer.from(honest))) as { document: { signature: string } };
  const { signature } = good.document;
  const of = (name: string, value: unknown): Mutant => ({ family: 'evidence that is none', name, evidence: Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)) });
  yield of('nothing', '');
  yield of('no JSON', 'x');
  yield of('the message alone', signature);
  for (const value of [null, [], [good], 1, {}]) yield of(`${JSON.stringify(value).slice(0, 20)}`, value);
  for (const [index, document] of [null, '', signature, [good.document], 1, {}].entries()) yield of(`document ${index}`, { ...good, document });
  for (const [index, encoding] of [undefined, null, '', 'PKCS7', 'pkcs7 ', 'base64', 'jwt', 'none', 7, ['pkcs7']].entries()) {
    yield of(`encoding ${index}`, { ...good, document: { encoding, signature } });
  }
  for (const [index, other] of [undefined, null, '', 0, [signature], { signature }, ` ${signature}`, `${signature}\n`, `${signature}=`, signature.replace(/=*$/, '-_'), `${signature}${signature}=`, '='].entries()) {
    yield of(`signature ${index}`, { ...good, document: { encoding: 'pkcs7', signature: other } });
  }
  yield of('the document twice', `${String(Buffer.from(honest)).slice(0, -1)},"document":{}}`);
  yield of('the message twice', String(Buffer.from(honest)).replace('"signature"', '"signature":"AAAA","signature"'));
  for (const [name, evidence] of [
    ['a large message', evidenceOf(Buffer.alloc(40_000, 0x30))],
    ['a larger one', evidenceOf(Buffer.alloc(100_000, 0x30))],
    ['zeros', new Uint8Array(1 << 20)],
    ['deep', Buffer.from('['.repeat(90_000))],
    ['large beside it', evidenceOf(honestMessage, { filler: 'x'.repeat(200_000) })],
    ['a large document', signedEvidence(documentOf({ filler: 'x'.repeat(33_000) }))],
  ] as const) {
    yield { family: 'evidence beyond measure', name, evidence };
  }
}

describe('T-B07: forged documents', () => {
  const all = [...mutants()];

  it('are refused, all of them, each family for its reason', async () => {
    const accepted: string[] = [];
    const wrong: unknown[] = [];
    for (const { family, name, evidence, at: instant } of all) {
      const outcome = await outcomeOf(evidence, instant);
      const [own, kind] = reasons[family] ?? [[], ''];
      const causes = inCertificate.has(family) ? undefined : forgeryReasons[family];
      if (outcome.reason === 'accepted') accepted.push(`${family}: ${name}`);
      if (!own.includes(outcome.reason) || outcome.kind !== kind || causes?.includes(outcome.cause ?? '') === false) wrong.push({ family, name, ...outcome });
    }
    expect(accepted).toEqual([]);
    expect(wrong).toEqual([]);
  });

  it('are more than a thousand, of every family that Azure’s form of message has', () => {
    expect(all.length).toBeGreaterThan(1000);
    const families = new Set(all.map(({ family }) => family));
    expect(Object.keys(reasons).filter((family) => !families.has(family))).toEqual(['broken stream']);
  });

  it('differ from honest ones, which the same check lets pass', async () => {
    expect(all.filter(({ evidence, at: instant }) => instant === undefined && Buffer.compare(evidence, honest) === 0)).toEqual([]);
    expect(await outcomeOf(Uint8Array.from(honest))).toMatchObject({ reason: 'accepted' });
  });
});

describe('readMachine', () => {
  it('reads nothing that was not verified', () => {
    const certificate = parseCertificate(signer.der);
    // @ts-expect-error: only what was verified may be read.
    expect(readMachine({ bytes: Buffer.from(victim), signer: certificate })).toMatchObject({ vmId: facts.vmId });
    const verified = verifySignedData(readSignedData(honestMessage, { streamed: false }), certificate);
    expect(readMachine(verified)).toEqual({
      vmId: facts.vmId,
      subscriptionId: facts.subscriptionId,
      nonce,
      createdAt: Date.UTC(2026, 5, 1),
      expiresAt: Date.UTC(2026, 5, 1, 6),
    });
  });

  it('tells nothing that is not in the bytes that were signed, but for the tenant that is configured', async () => {
    const machine = fc.record({ vmId: fc.uuid(), subscriptionId: fc.constantFrom(...(options.tenants[0]?.subscriptions ?? [])) });
    await fc.assert(
      fc.asyncProperty(machine, machine, fc.uuid(), async (signed, other, tid) => {
        const document = documentOf(signed);
        const evidence = evidenceOf(messageOf(formOf(Buffer.from(document), signer)), { ...other, tid, metadata: { agentDomain: tid, vmssName: other.vmId } });
        const { agentId, selectors } = await show(evidence);
        expect(agentId).toBe(idOf(`/spire/agent/azure_imds/${tenantId}/${signed.subscriptionId}/${signed.vmId}`));
        expect(selectors).toEqual([`azure_imds:subscription-id:${signed.subscriptionId}`]);
        for (const text of agentId.split('/').slice(7)) expect(document).toContain(`"${text}"`);
      }),
      { numRuns: 60 },
    );
  });
});
