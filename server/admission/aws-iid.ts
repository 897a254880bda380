/**
 * Evidence: the instance identity document of an EC2 instance, signed by Amazon. It says which instance asked, not that the
 * one who shows it runs there, so it makes an agent once; what only Amazon's APIs could tell is left out.
 */
import { decodeBase64 } from '../../spiffe/base64.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { composeSpiffeId } from '../../spiffe/id.ts';
import { isJsonObject, parseJson, type JsonObject } from '../../spiffe/json.ts';
import { parsePemCertificates } from '../../spiffe/pem.ts';
import { composeSelector } from '../../spiffe/selector.ts';
import { parseCertificate, type Certificate } from '../../spiffe/x509/certificate.ts';
import { sameBytes } from '../../spiffe/x509/names.ts';
import { checkPublicKey } from '../../spiffe/x509/public-key.ts';
import { isSigner, readSignedData, verifySignedData, type SignedContent } from './cms.ts';
import type { Verifier } from './verifier.ts';

export interface AwsIidOptions {
  /** Accounts whose instances may join, twelve digits each; at least one, or any customer of Amazon's could. */
  readonly accountAllowList: readonly string[];
  /** Amazon's certificates for RSA-2048 signatures, and the regions whose documents each may sign. */
  readonly certificates: readonly AwsRegionCertificates[];
  /** How long before the attestation the instance may have been started; without it any time. */
  readonly maxAgeSeconds?: number;
}

export interface AwsRegionCertificates {
  /** One certificate or several, while one replaces another. */
  readonly pem: string;
  readonly regions: readonly string[];
}

/** What a document says of its instance. */
export interface AwsInstance {
  readonly accountId: string;
  readonly region: string;
  readonly availabilityZone: string;
  readonly instanceId: string;
  readonly imageId: string;
  /** When it was started last, epoch milliseconds. */
  readonly pendingAt: number;
}

const type = 'aws_iid';
const maxPayloadBytes = 96 * 1024;
const leewayMs = 5 * 60_000;
const forms = {
  accountId: /^[0-9]{12}$/,
  region: /^[a-z]{2,8}(?:-[a-z]{2,16}){1,3}-[0-9]{1,2}$/,
  availabilityZone: /^[a-z0-9]+(?:-[a-z0-9]+)*$/,
  instanceId: /^i-(?:[0-9a-f]{8}|[0-9a-f]{17})$/,
  imageId: /^ami-(?:[0-9a-f]{8}|[0-9a-f]{17})$/,
  pendingTime: /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/,
} as const;

/** @throws invalid `aws-iid.options`, `pem.*`, and what certificates and keys that cannot be read throw */
export function createAwsIidVerifier(options: AwsIidOptions): Verifier {
  const { accountAllowList, maxAgeSeconds } = options;
  if (accountAllowList.length === 0 || accountAllowList.some((account) => !forms.accountId.test(account))) {
    throw badOptions('the allowed accounts are missing, or one is not of twelve digits');
  }
  const signers = readSigners(options.certificates);
  return {
    type,
    async verify(payload, _challenge, { trustDomain, at }) {
      const content = verifyDocument(readEvidence(payload), signers, at);
      const instance = readInstance(content);
      checkRegion(instance, content, signers);
      if (!accountAllowList.includes(instance.accountId)) {
        throw new SpiffeError('denied', 'aws-iid.account', told('the account is not allowed'));
      }
      checkAge(instance.pendingAt, at, maxAgeSeconds);
      const { accountId, region, availabilityZone, instanceId, imageId } = instance;
      return {
        agentId: composeSpiffeId(trustDomain, `/spire/agent/${type}/${accountId}/${region}/${instanceId}`),
        selectors: [
          `account_id:${accountId}`,
          `az:${availabilityZone}`,
          `image:id:${imageId}`,
          `instance:id:${instanceId}`,
          `region:${region}`,
        ].map((value) => composeSelector(type, value)),
        canReattest: false,
        firstUseOnly: true,
        tokenHash: undefined,
      };
    },
  };
}

/**
 * Reads a document out of what was verified, and out of nothing else.
 * @throws invalid `aws-iid.document`
 */
export function readInstance({ bytes }: SignedContent): AwsInstance {
  const document = readObject(bytes, 'aws-iid.document');
  const text = (name: Exclude<keyof AwsInstance, 'pendingAt'> | 'pendingTime'): string => {
    const value = document[name];
    if (typeof value !== 'string' || value.length > 64 || !forms[name].test(value)) {
      throw badDocument(`its ${name} is missing or not of the form it has`);
    }
    return value;
  };
  const region = text('region');
  const availabilityZone = text('availabilityZone');
  if (!availabilityZone.startsWith(region)) throw badDocument('its zone is not of its region');
  const pendingTime = text('pendingTime');
  const pendingAt = Date.parse(pendingTime);
  // A 30 February would come out in March.
  if (Number.isNaN(pendingAt) || new Date(pendingAt).toISOString() !== pendingTime.replace('Z', '.000Z')) {
    throw badDocument('its pendingTime is no instant');
  }
  return {
    accountId: text('accountId'),
    region,
    availabilityZone,
    instanceId: text('instanceId'),
    imageId: text('imageId'),
    pendingAt,
  };
}

interface Evidence {
  /** As the node tells it; compared, never read. */
  readonly document: Uint8Array;
  readonly message: Uint8Array;
}

interface Signer {
  readonly certificate: Certificate;
  readonly regions: readonly string[];
}

function readSigners(configured: readonly AwsRegionCertificates[]): readonly Signer[] {
  const signers = configured.flatMap(({ pem, regions }) => {
    if (regions.length === 0 || regions.some((region) => !forms.region.test(region))) {
      throw badOptions('a certificate has no region, or one that is none');
    }
    return parsePemCertificates(pem).map((der) => ({ certificate: parseCertificate(der), regions }));
  });
  if (signers.length === 0) throw badOptions('there is no certificate to check documents with');
  for (const [index, { certificate }] of signers.entries()) {
    checkPublicKey(certificate.spki);
    if (signers.slice(index + 1).some((other) => sameName(other.certificate, certificate))) {
      throw badOptions('two certificates have the same issuer and serial number');
    }
  }
  return signers;
}

function sameName(a: Certificate, b: Certificate): boolean {
  return sameBytes(a.issuer, b.issuer) && sameBytes(a.serial.octets, b.serial.octets);
}

/** `signature`, made with RSA of 1024 bits, is not looked at: whoever sends the evidence would choose it. */
function readEvidence(payload: Uint8Array): Evidence {
  const { document, rsa2048 } = readObject(payload, 'aws-iid.malformed') as { readonly [name: string]: unknown };
  if (typeof document !== 'string' || document === '') throw malformed('there is no document');
  if (typeof rsa2048 !== 'string' || rsa2048 === '') throw malformed('there is no RSA-2048 signature of the document');
  // The metadata service breaks the text into lines.
  const message = decodeBase64(rsa2048.replace(/\r?\n/g, ''));
  if (message === undefined) throw malformed('the RSA-2048 signature is not in base64');
  return { document: Buffer.from(document), message };
}

/** The certificates are ours: whatever the message encloses is not looked at. */
function verifyDocument({ document, message }: Evidence, signers: readonly Signer[], at: number): SignedContent {
  let content: SignedContent;
  try {
    const data = readSignedData(message, { streamed: true });
    const signer = signers.find(({ certificate }) => isSigner(data, certificate))?.certificate;
    if (signer === undefined) throw new SpiffeError('invalid', 'cms.signer', 'message is signed with an unknown certificate');
    if (at < signer.notBeforeAt || at > signer.notAfterAt) {
      throw new SpiffeError('invalid', 'cms.signer', 'certificate of the signer is not valid now');
    }
    content = verifySignedData(data, signer);
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw new SpiffeError('invalid', 'aws-iid.signature', told(`the document is not verified: ${cause.message}`), { cause });
  }
  if (!sameBytes(content.bytes, document)) {
    throw new SpiffeError('invalid', 'aws-iid.mismatch', told('the document is not the one that was signed'));
  }
  return content;
}

/** A certificate of one region must not speak for another one. */
function checkRegion({ region }: AwsInstance, { signer }: SignedContent, signers: readonly Signer[]): void {
  const regions = signers.find(({ certificate }) => certificate === signer)?.regions ?? [];
  if (!regions.includes(region)) {
    throw new SpiffeError('invalid', 'aws-iid.region', told('the document is not signed by the certificate of its region'));
  }
}

function checkAge(pendingAt: number, at: number, maxAgeSeconds: number | undefined): void {
  if (pendingAt > at + leewayMs) {
    throw new SpiffeError('denied', 'aws-iid.age', told('the instance is started in the future'));
  }
  if (maxAgeSeconds !== undefined && at - pendingAt > maxAgeSeconds * 1000) {
    throw new SpiffeError('denied', 'aws-iid.age', told('the instance was started too long ago'));
  }
}

function readObject(bytes: Uint8Array, reason: 'aws-iid.malformed' | 'aws-iid.document'): JsonObject {
  try {
    const value = parseJson(bytes, { maxBytes: maxPayloadBytes, maxDepth: 4, integers: 'number' });
    if (isJsonObject(value)) return value;
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw reason === 'aws-iid.malformed' ? malformed(cause.message, cause) : badDocument(cause.message, cause);
  }
  throw reason === 'aws-iid.malformed' ? malformed('it is no object') : badDocument('it is no object');
}

function malformed(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'aws-iid.malformed', told(`attestation data cannot be read: ${what}`), { cause });
}

function badDocument(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'aws-iid.document', told(`the document cannot be read: ${what}`), { cause });
}

function badOptions(what: string): SpiffeError {
  return new SpiffeError('invalid', 'aws-iid.options', told(what));
}

function told(what: string): string {
  return `nodeattestor(${type}): ${what}`;
}
