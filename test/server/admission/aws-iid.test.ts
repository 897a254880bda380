import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createAwsIidVerifier, readInstance, type AwsIidOptions } from '../../../server/admission/aws-iid.ts';
import { readSignedData, verifySignedData, type SignedContent } from '../../../server/admission/cms.ts';
import type { VerifiedNode, Verifier } from '../../../server/admission/verifier.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { formatPemCertificates } from '../../../spiffe/pem.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { encodeSmallInteger } from '../../../spiffe/x509/der-writer.ts';
import { forgeCertificate, nameOf, rsaPair, type CertificateForm, type Pair } from '../../help/forge.ts';
import { exampleOrg, idOf } from '../../help/store.ts';
import {
  algorithm,
  attributesOf,
  base64,
  lookalikes,
  messageOf,
  oids,
  signerInfo,
  streamOf,
  withNull,
  wrongValues,
  type MessageForm,
  type Mutant,
  type Signing,
} from '../../vectors/documents.ts';
import { damaged, forgeries, forgeryReasons, type Seed } from '../../vectors/forged-messages.ts';

const at = Date.UTC(2026, 5, 1);
const amazon = nameOf('Amazon Web Services LLC');
const frankfurt = regionOf(rsaPair(), 1);
const sydney = regionOf(rsaPair(), 2);
const stranger = regionOf(rsaPair(), 3);
const expired = regionOf(frankfurt.pair, 4, { validity: [Date.UTC(2020, 0, 1), Date.UTC(2026, 0, 1)] });
const coming = regionOf(frankfurt.pair, 5, { validity: [Date.UTC(2027, 0, 1), Date.UTC(2040, 0, 1)] });

const options: AwsIidOptions = {
  accountAllowList: ['123456789012', '210987654321'],
  certificates: [
    { pem: formatPemCertificates([frankfurt.der, expired.der, coming.der]), regions: ['eu-central-1', 'eu-central-2'] },
    { pem: formatPemCertificates([sydney.der]), regions: ['ap-southeast-2'] },
  ],
};
const verifier = createAwsIidVerifier(options);

interface Region {
  readonly pair: Pair;
  readonly der: Uint8Array;
  readonly signing: Signing;
}

/** A certificate as Amazon has one for each region: signed by itself, the same name in all of them. */
function regionOf(pair: Pair, serialNumber: number, form: Partial<CertificateForm> = {}): Region {
  const serial = encodeSmallInteger(serialNumber);
  const der = forgeCertificate({ signer: pair.privateKey, spki: pair.spki, subject: amazon, issuer: amazon, serial, extensions: null, ...form });
  return { pair, der, signing: { key: pair.privateKey, issuer: amazon, serial } };
}

/** As the metadata service writes it. */
const facts = {
  accountId: '123456789012',
  architecture: 'arm64',
  availabilityZone: 'eu-central-1b',
  billingProducts: null,
  devpayProductCodes: null,
  marketplaceProductCodes: null,
  imageId: 'ami-0cbde744623b7506b',
  instanceId: 'i-0c5541936caf78c12',
  instanceType: 't4g.small',
  kernelId: null,
  pendingTime: '2026-05-31T00:38:27Z',
  privateIp: '10.0.1.242',
  ramdiskId: null,
  region: 'eu-central-1',
  version: '2017-09-30',
} as const;

function documentOf(change: Readonly<Record<string, unknown>> = {}): string {
  const members = Object.entries({ ...facts, ...change }).filter(([, value]) => value !== undefined);
  return `{\n${members.map(([name, value]) => `  ${JSON.stringify(name)} : ${JSON.stringify(value)}`).join(',\n')}\n}`;
}

function formOf(content: Uint8Array, signing: Signing, change: Partial<MessageForm> = {}): MessageForm {
  return { content, signers: [signerInfo(content, { ...signing, attributes: attributesOf(content) })], ...change };
}

/** Lines as the metadata service breaks them. */
function lines(message: Uint8Array): string {
  return base64(message).replace(/.{76}(?=.)/g, '$&\n');
}

function evidenceOf(document: string, message: Uint8Array, more: Readonly<Record<string, unknown>> = {}): Uint8Array {
  return Buffer.from(JSON.stringify({ document, signature: base64(Buffer.alloc(128, 1)), rsa2048: lines(message), ...more }));
}

/** What an instance shows when Amazon signs this document of it. */
function signedEvidence(document: string, signing: Signing = frankfurt.signing): Uint8Array {
  return evidenceOf(document, streamOf(formOf(Buffer.from(document), signing)));
}

const honestDocument = documentOf();
const honestMessage = streamOf(formOf(Buffer.from(honestDocument), frankfurt.signing));
const honest = evidenceOf(honestDocument, honestMessage);
const honestNode: VerifiedNode = {
  agentId: idOf('/spire/agent/aws_iid/123456789012/eu-central-1/i-0c5541936caf78c12'),
  selectors: [
    'aws_iid:account_id:123456789012',
    'aws_iid:az:eu-central-1b',
    'aws_iid:image:id:ami-0cbde744623b7506b',
    'aws_iid:instance:id:i-0c5541936caf78c12',
    'aws_iid:region:eu-central-1',
  ] as never,
  canReattest: false,
  firstUseOnly: true,
  tokenHash: undefined,
};

function show(evidence: Uint8Array, instant = at, by: Verifier = verifier): Promise<VerifiedNode> {
  const challenge = (): Promise<Uint8Array> => Promise.reject(new Error('nothing is asked back'));
  return by.verify(evidence, challenge, { trustDomain: exampleOrg, remoteAddress: '192.0.2.1', at: instant });
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

describe('createAwsIidVerifier', () => {
  it('tells of an instance what its document says, once', async () => {
    expect(await show(honest)).toEqual(honestNode);
  });

  it.each([
    ['DER', messageOf(formOf(Buffer.from(honestDocument), frankfurt.signing))],
    ['with a certificate enclosed', streamOf(formOf(Buffer.from(honestDocument), frankfurt.signing, { certificates: [frankfurt.der] }))],
    ['with a stranger’s certificate enclosed', streamOf(formOf(Buffer.from(honestDocument), frankfurt.signing, { certificates: [stranger.der, frankfurt.der] }))],
  ])('reads the message however Amazon writes it: %s', async (_name, message) => {
    expect(await show(evidenceOf(honestDocument, message))).toEqual(honestNode);
  });

  it.each([
    ['a local zone', { availabilityZone: 'eu-central-1-ham-1a' }, 'aws_iid:az:eu-central-1-ham-1a'],
    ['identifiers of the old form', { instanceId: 'i-f79fe56c', imageId: 'ami-fce3c696' }, 'aws_iid:instance:id:i-f79fe56c'],
    ['product codes', { marketplaceProductCodes: ['1abc2defghijklm3nopqrs4tu'] }, 'aws_iid:region:eu-central-1'],
  ])('knows %s', async (_name, change, selector) => {
    expect((await show(signedEvidence(documentOf(change)))).selectors).toContain(selector);
  });

  it('holds instances to an age when told to', async () => {
    const strict = createAwsIidVerifier({ ...options, maxAgeSeconds: 600 });
    const pending = Date.UTC(2026, 4, 31, 0, 38, 27);
    expect(await outcomeOf(honest, pending + 600_000, strict)).toMatchObject({ reason: 'accepted' });
    expect(await outcomeOf(honest, pending + 601_000, strict)).toMatchObject({ reason: 'aws-iid.age', kind: 'denied' });
    expect(await outcomeOf(honest, pending - 300_000)).toMatchObject({ reason: 'accepted' });
    expect(await outcomeOf(honest, pending - 301_000)).toMatchObject({ reason: 'aws-iid.age', kind: 'denied' });
  });

  it.each<[string, Partial<AwsIidOptions>]>([
    ['no account', { accountAllowList: [] }],
    ['an account that is none', { accountAllowList: ['123'] }],
    ['every account', { accountAllowList: ['*'] }],
    ['no certificate', { certificates: [] }],
    ['a certificate for no region', { certificates: [{ pem: formatPemCertificates([frankfurt.der]), regions: [] }] }],
    ['a certificate for every region', { certificates: [{ pem: formatPemCertificates([frankfurt.der]), regions: ['*'] }] }],
    ['a certificate twice', { certificates: [{ pem: formatPemCertificates([frankfurt.der, frankfurt.der]), regions: ['eu-central-1'] }] }],
  ])('is not made with %s', (_name, change) => {
    expect(() => createAwsIidVerifier({ ...options, ...change })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'aws-iid.options' }));
  });

  it('is not made with a short key', () => {
    const short = regionOf(rsaPair(1024), 9);
    const certificates = [{ pem: formatPemCertificates([short.der]), regions: ['eu-central-1'] }];
    expect(() => createAwsIidVerifier({ ...options, certificates })).toThrow(expect.objectContaining({ reason: 'key.rsa.size' }));
  });
});

/** Reason and kind that a family is refused for. */
const reasons: Readonly<Record<string, readonly [reason: string, kind: string]>> = {
  ...Object.fromEntries(Object.keys(forgeryReasons).map((family) => [family, ['aws-iid.signature', 'invalid'] as const])),
  'one bit': ['aws-iid.signature', 'invalid'],
  random: ['aws-iid.signature', 'invalid'],
  'document exchanged': ['aws-iid.mismatch', 'invalid'],
  'signature exchanged': ['aws-iid.mismatch', 'invalid'],
  'signed by a stranger': ['aws-iid.signature', 'invalid'],
  'signer not valid now': ['aws-iid.signature', 'invalid'],
  'of another region': ['aws-iid.region', 'invalid'],
  'of another account': ['aws-iid.account', 'denied'],
  'claim that looks right': ['aws-iid.document', 'invalid'],
  'claim of a wrong type': ['aws-iid.document', 'invalid'],
  'claim missing': ['aws-iid.document', 'invalid'],
  'claim twice': ['aws-iid.document', 'invalid'],
  'document that is none': ['aws-iid.document', 'invalid'],
  'evidence that is none': ['aws-iid.malformed', 'invalid'],
  'evidence beyond measure': ['aws-iid.malformed', 'invalid'],
  'weaker signature': ['aws-iid.malformed', 'invalid'],
};

const victim = documentOf();
const attacker = documentOf({ instanceId: 'i-0aaaaaaaaaaaaaaaa', accountId: '210987654321' });

const seed: Seed = {
  content: Buffer.from(victim),
  otherContent: Buffer.from(attacker),
  signing: frankfurt.signing,
  foreign: { ...frankfurt.signing, key: stranger.pair.privateKey },
  digestName: algorithm(oids.sha256),
  algorithm: withNull(oids.rsaSha256),
  hasAttributes: true,
};

const claims = ['accountId', 'region', 'availabilityZone', 'instanceId', 'imageId', 'pendingTime'] as const;

function* mutants(): Generator<Mutant> {
  const messages = [honestMessage, messageOf(formOf(Buffer.from(victim), frankfurt.signing))];
  for (const { family, name, message } of [...forgeries(seed), ...damaged(messages, 300)]) {
    yield { family, name, evidence: evidenceOf(victim, message) };
  }

  const own = streamOf(formOf(Buffer.from(attacker), frankfurt.signing));
  const changes = [
    { accountId: '210987654321' },
    { instanceId: 'i-0bbbbbbbbbbbbbbbb' },
    { region: 'eu-central-2', availabilityZone: 'eu-central-2a' },
    { imageId: 'ami-00000000' },
    { pendingTime: '2026-05-31T00:38:28Z' },
    { kernelId: undefined },
    { extra: true },
  ];
  for (const change of changes) {
    yield { family: 'document exchanged', name: JSON.stringify(change), evidence: evidenceOf(documentOf(change), honestMessage) };
    yield { family: 'signature exchanged', name: JSON.stringify(change), evidence: evidenceOf(documentOf(change), own) };
  }
  for (const [name, document] of [
    ['compact', JSON.stringify(facts)],
    ['a space more', `${victim} `],
    ['a line more', `\n${victim}`],
    ['a byte order mark', `\ufeff${victim}`],
    ['a claim twice', victim.replace('{', '{ "accountId" : "210987654321",')],
    ['escaped', victim.replace('accountId', '\\u0061ccountId')],
    ['other order', `{${Object.entries(facts).toReversed().map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(',')}}`],
    ['the attacker’s', attacker],
  ] as const) {
    yield { family: 'document exchanged', name, evidence: evidenceOf(document, honestMessage) };
  }
  yield { family: 'signature exchanged', name: 'of the attacker', evidence: evidenceOf(victim, own) };

  for (const signing of [stranger.signing, { ...stranger.signing, serial: frankfurt.signing.serial }]) {
    for (const certificates of [[], [stranger.der], [frankfurt.der, stranger.der], [stranger.der, frankfurt.der]]) {
      const form = formOf(Buffer.from(victim), signing, { certificates });
      yield { family: 'signed by a stranger', name: `${certificates.length} ${signing.serial.at(-1)}`, evidence: evidenceOf(victim, streamOf(form)) };
    }
  }
  // A certificate of the stranger's that has the names of Amazon's.
  const twin = regionOf(stranger.pair, 1);
  for (const certificates of [[twin.der], [frankfurt.der, twin.der], [twin.der, frankfurt.der]]) {
    const form = formOf(Buffer.from(victim), twin.signing, { certificates });
    yield { family: 'signed by a stranger', name: `twin ${certificates.length}`, evidence: evidenceOf(victim, streamOf(form)) };
  }

  yield { family: 'signer not valid now', name: 'expired', evidence: signedEvidence(victim, expired.signing) };
  yield { family: 'signer not valid now', name: 'not yet', evidence: signedEvidence(victim, coming.signing) };
  yield { family: 'signer not valid now', name: 'the last second and one', evidence: honest, at: Date.UTC(2036, 0, 1) + 1 };
  yield { family: 'signer not valid now', name: 'a second early', evidence: honest, at: Date.UTC(2026, 0, 1) - 1 };

  for (const region of ['ap-southeast-2', 'us-east-1', 'eu-central-3', 'us-gov-west-1', 'cn-north-1']) {
    yield { family: 'of another region', name: region, evidence: signedEvidence(documentOf({ region, availabilityZone: `${region}a` })) };
  }
  for (const region of ['eu-central-1', 'eu-central-2']) {
    const document = documentOf({ region, availabilityZone: `${region}a` });
    yield { family: 'of another region', name: `${region} by Sydney`, evidence: signedEvidence(document, sydney.signing) };
  }
  for (const accountId of ['000000000000', '123456789013', '999999999999']) {
    yield { family: 'of another account', name: accountId, evidence: signedEvidence(documentOf({ accountId })) };
  }

  for (const claim of claims) {
    for (const [index, value] of lookalikes(facts[claim]).entries()) {
      yield { family: 'claim that looks right', name: `${claim} ${index}`, evidence: signedEvidence(documentOf({ [claim]: value })) };
    }
    for (const [index, value] of wrongValues.entries()) {
      yield { family: 'claim of a wrong type', name: `${claim} ${index}`, evidence: signedEvidence(documentOf({ [claim]: value })) };
    }
    yield { family: 'claim missing', name: claim, evidence: signedEvidence(documentOf({ [claim]: undefined })) };
    const twice = victim.replace('{', `{ ${JSON.stringify(claim)} : ${JSON.stringify(facts[claim])},`);
    yield { family: 'claim twice', name: claim, evidence: signedEvidence(twice) };
    const escaped = victim.replace('{', `{ "\\u00${claim.codePointAt(0)?.toString(16)}${claim.slice(1)}" : ${JSON.stringify(facts[claim])},`);
    yield { family: 'claim twice', name: `${claim} escaped`, evidence: signedEvidence(escaped) };
  }
  for (const [name, change] of [
    ['a zone of another region', { availabilityZone: 'ap-southeast-2a' }],
    ['a day that is none', { pendingTime: '2026-02-30T00:00:00Z' }],
    ['a month that is none', { pendingTime: '2026-13-01T00:00:00Z' }],
    ['a time with an offset', { pendingTime: '2026-05-31T00:38:27+02:00' }],
    ['an instance of upper case', { instanceId: 'i-0C5541936CAF78C12' }],
    ['an instance too long', { instanceId: 'i-0c5541936caf78c12a' }],
    ['a machine of another kind', { instanceId: 'mi-0c5541936caf78c12' }],
    ['an account with dashes', { accountId: '1234-5678-9012' }],
  ] as const) {
    yield { family: 'claim that looks right', name, evidence: signedEvidence(documentOf(change)) };
  }
  for (const document of ['null', '[]', '""', '{}', '{', 'x', `[${victim}]`, `${victim}${victim}`, `\ufeff${victim}`, `${'['.repeat(50)}${']'.repeat(50)}`, victim.replace('null', `${'['.repeat(9)}${']'.repeat(9)}`)]) {
    yield { family: 'document that is none', name: document.slice(0, 20), evidence: signedEvidence(document) };
  }

  const good = JSON.parse(Buffer.from(honest).toString()) as Record<string, string>;
  for (const [name, text] of [
    ['nothing', ''],
    ['no JSON', 'x'],
    ['null', 'null'],
    ['a list', JSON.stringify([good])],
    ['a text', JSON.stringify(honestDocument)],
    ['two', `${JSON.stringify(good)}${JSON.stringify(good)}`],
    ['the message alone', good['rsa2048'] ?? ''],
    ['no document', JSON.stringify({ rsa2048: good['rsa2048'] })],
    ['another name', JSON.stringify({ Document: good['document'], rsa2048: good['rsa2048'] })],
    ['the document twice', `{"document":${JSON.stringify(attacker)},${JSON.stringify(good).slice(1)}`],
    ['the message twice', `${JSON.stringify(good).slice(0, -1)},"rsa2048":${JSON.stringify(lines(own))}}`],
    ['the document inside', JSON.stringify({ ...good, document: facts })],
  ] as const) {
    yield { family: 'evidence that is none', name, evidence: Buffer.from(text) };
  }
  for (const [index, value] of [null, true, 1, [], {}, [good['rsa2048']], '='].entries()) {
    yield { family: 'evidence that is none', name: `message of type ${index}`, evidence: Buffer.from(JSON.stringify({ ...good, rsa2048: value })) };
    if (value !== '=') yield { family: 'evidence that is none', name: `document of type ${index}`, evidence: Buffer.from(JSON.stringify({ ...good, document: value })) };
  }
  // One whose base64 has two bits to spare.
  const spare = ['', 'x', 'xx'].map((extra) => documentOf({ extra })).find((document) => base64(streamOf(formOf(Buffer.from(document), frankfurt.signing))).endsWith('=='));
  const text = base64(streamOf(formOf(Buffer.from(spare ?? ''), frankfurt.signing)));
  for (const [name, rsa2048] of [
    ['of the other alphabet', text.replaceAll('+', '-').replaceAll('/', '_')],
    ['without padding', text.replace(/=+$/, '')],
    ['with more padding', `${text}=`],
    ['with a space', text.replace(/.{8}/, '$& ')],
    ['with a tab', `\t${text}`],
    ['with the lines of PEM', `-----BEGIN PKCS7-----\n${lines(honestMessage)}\n-----END PKCS7-----\n`],
    ['with bits to spare', text.replace(/.==$/, (end) => `${String.fromCodePoint((end.codePointAt(0) ?? 0) + 1)}==`)],
    ['twice', `${text}${text}`],
    ['as a data URL', `data:application/pkcs7-mime;base64,${text}`],
  ] as const) {
    yield { family: 'evidence that is none', name: `message ${name}`, evidence: Buffer.from(JSON.stringify({ document: spare, rsa2048 })) };
  }
  for (const [name, evidence] of [
    ['a large document', signedEvidence(`${victim.slice(0, -2)},\n"filler" : "${'x'.repeat(200_000)}"\n}`)],
    ['a large message', evidenceOf(victim, Buffer.alloc(80_000, 0x30))],
    ['zeros', new Uint8Array(1 << 20)],
    ['deep', Buffer.from('['.repeat(90_000))],
    ['large beside it', evidenceOf(victim, honestMessage, { filler: 'x'.repeat(200_000) })],
  ] as const) {
    yield { family: 'evidence beyond measure', name, evidence };
  }
  for (const [name, rsa2048] of [['left out', undefined], ['empty', ''], ['null', null]] as const) {
    yield { family: 'weaker signature', name, evidence: Buffer.from(JSON.stringify({ ...good, rsa2048 })) };
  }
}

describe('T-B07: forged documents', () => {
  const all = [...mutants()];

  it('are refused, all of them, each family for its reason', async () => {
    const accepted: string[] = [];
    const wrong: unknown[] = [];
    for (const { family, name, evidence, at: instant } of all) {
      const outcome = await outcomeOf(evidence, instant);
      const [reason, kind] = reasons[family] ?? ['a family without a reason', ''];
      const causes = forgeryReasons[family];
      if (outcome.reason === 'accepted') accepted.push(`${family}: ${name}`);
      if (outcome.reason !== reason || outcome.kind !== kind || causes?.includes(outcome.cause ?? '') === false) wrong.push({ family, name, ...outcome });
    }
    expect(accepted).toEqual([]);
    expect(wrong).toEqual([]);
  });

  it('are more than a thousand, of every family', () => {
    expect(all.length).toBeGreaterThan(1000);
    expect(new Set(all.map(({ family }) => family))).toEqual(new Set(Object.keys(reasons)));
  });

  it('differ from honest ones, which the same check lets pass', async () => {
    expect(all.filter(({ evidence, at: instant }) => instant === undefined && Buffer.compare(evidence, honest) === 0)).toEqual([]);
    expect(await outcomeOf(Uint8Array.from(honest))).toMatchObject({ reason: 'accepted' });
  });
});

describe('readInstance', () => {
  it('reads nothing that was not verified', () => {
    const bytes = Buffer.from(victim);
    const signer = parseCertificate(frankfurt.der);
    // @ts-expect-error: only what was verified may be read.
    expect(readInstance({ bytes, signer })).toMatchObject({ accountId: facts.accountId });
    const verified: SignedContent = verifySignedData(readSignedData(honestMessage, { streamed: true }), signer);
    expect(readInstance(verified)).toMatchObject({ accountId: facts.accountId });
  });

  it('tells nothing that is not in the bytes that were signed', async () => {
    const hex = (length: number) => fc.string({ unit: fc.constantFrom(...'0123456789abcdef'.split('')), minLength: length, maxLength: length });
    const instance = fc.record({
      accountId: fc.constantFrom(...options.accountAllowList),
      instanceId: hex(17).map((id) => `i-${id}`),
      imageId: hex(8).map((id) => `ami-${id}`),
      availabilityZone: fc.constantFrom('a', 'b', '-ham-1a').map((zone) => `eu-central-1${zone}`),
    });
    await fc.assert(
      fc.asyncProperty(instance, instance, fc.string(), async (signed, other, extra) => {
        const document = documentOf({ ...signed, extra });
        const message = streamOf(formOf(Buffer.from(document), frankfurt.signing));
        const { agentId, selectors } = await show(evidenceOf(document, message, { signature: JSON.stringify(other), extra: documentOf(other) }));
        for (const text of [...agentId.split('/').slice(6), ...selectors.map((one) => one.split(':').at(-1) ?? '')]) {
          expect(document).toContain(`"${text}"`);
        }
        // Whatever else is shown beside it changes nothing.
        const twisted = evidenceOf(documentOf(other), message);
        expect((await outcomeOf(twisted)).reason).toBe(documentOf(other) === document ? 'accepted' : 'aws-iid.mismatch');
      }),
      { numRuns: 100 },
    );
  });
});
