/**
 * Evidence: the attested document of an Azure machine, signed by Azure over a nonce of ours. It says which machine asked and
 * that it asked now; what only Azure's APIs could tell is left out, and the tenant is what is configured of a subscription.
 */
import { randomBytes } from 'node:crypto';
import { decodeBase64 } from '../../spiffe/base64.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { composeSpiffeId } from '../../spiffe/id.ts';
import { isJsonObject, parseJson, type JsonObject } from '../../spiffe/json.ts';
import { parsePemCertificates } from '../../spiffe/pem.ts';
import { composeSelector } from '../../spiffe/selector.ts';
import { parseCertificate, type Certificate } from '../../spiffe/x509/certificate.ts';
import { oid, sameBytes } from '../../spiffe/x509/names.ts';
import { verifyCertificate } from '../../spiffe/x509/verify.ts';
import { isSigner, readSignedData, verifySignedData, type SignedContent } from './cms.ts';
import type { Verifier } from './verifier.ts';

export interface AzureImdsOptions {
  /** Which tenant each subscription is of; machines of other subscriptions may not join. */
  readonly tenants: readonly AzureTenant[];
  /** PEM of the authorities that may vouch for Azure's signers. */
  readonly roots: string;
  /** PEM of the authorities between them; documents do not carry them, and nothing is fetched. */
  readonly intermediates: string;
  /** Names of the metadata service; a signer must be named so, or below. `metadata.azure.com` when absent. */
  readonly metadataDomains?: readonly string[];
}

export interface AzureTenant {
  readonly tenantId: string;
  readonly subscriptions: readonly string[];
}

/** What a document says of its machine. */
export interface AzureMachine {
  readonly vmId: string;
  readonly subscriptionId: string;
  readonly nonce: string;
  /** Epoch milliseconds, where it is told. */
  readonly createdAt: number | undefined;
  readonly expiresAt: number | undefined;
}

const type = 'azure_imds';
const maxPayloadBytes = 4096;
const maxResponseBytes = 96 * 1024;
/** As text; the metadata service takes letters and digits, 32 of them at most. */
const nonceBytes = 16;
const leewayMs = 5 * 60_000;
/** A longer chain is not looked into. */
const maxIntermediates = 31;
const uuidForm = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const domainForm = /^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+$/;
/** `04/19/22 01:27:21 -0000` */
const timeForm = /^(\d\d)\/(\d\d)\/(\d\d) (\d\d:\d\d:\d\d) -0000$/;

/** @throws invalid `azure-imds.options`, `pem.*`, and what certificates that cannot be read throw */
export function createAzureImdsVerifier(options: AzureImdsOptions, drawNonce: () => string = freshNonce): Verifier {
  const { metadataDomains: domains = ['metadata.azure.com'] } = options;
  if (domains.length === 0 || domains.some((domain) => !domainForm.test(domain))) {
    throw badOptions('the names of the metadata service are missing, or one is none');
  }
  const tenants = readTenants(options.tenants);
  const trust = { roots: readAuthorities(options.roots), intermediates: readAuthorities(options.intermediates), domains };
  if (trust.intermediates.length > maxIntermediates) throw badOptions(`there are more than ${maxIntermediates} intermediates`);
  return {
    type,
    async verify(payload, challenge, { trustDomain, at }) {
      // What SPIRE's agents send first says nothing.
      if (payload.length > maxPayloadBytes) throw malformed('the first message is too large');
      const nonce = drawNonce();
      const message = readMessage(await challenge(Buffer.from(nonce)));
      const machine = readMachine(verifyDocument(message, trust, at));
      const { vmId, subscriptionId } = machine;
      checkFresh(machine, nonce, at);
      const tenantId = tenants.get(subscriptionId);
      if (tenantId === undefined) {
        throw new SpiffeError('denied', 'azure-imds.subscription', told('the subscription is not allowed'));
      }
      return {
        agentId: composeSpiffeId(trustDomain, `/spire/agent/${type}/${tenantId}/${subscriptionId}/${vmId}`),
        selectors: [composeSelector(type, `subscription-id:${subscriptionId}`)],
        canReattest: false,
        firstUseOnly: true,
        tokenHash: undefined,
      };
    },
  };
}

/**
 * Reads a document out of what was verified, and out of nothing else.
 * @throws invalid `azure-imds.document`
 */
export function readMachine({ bytes }: SignedContent): AzureMachine {
  const document = readObject(bytes, 'azure-imds.document');
  const text = (name: 'vmId' | 'subscriptionId'): string => {
    const value = document[name];
    if (typeof value !== 'string' || !uuidForm.test(value)) throw badDocument(`its ${name} is missing or no UUID`);
    return value;
  };
  const nonce = document['nonce'];
  if (typeof nonce !== 'string') throw badDocument('it has no nonce');
  const times = document['timeStamp'];
  if (times !== undefined && !isJsonObject(times)) throw badDocument('it has no instants where they should be');
  return {
    vmId: text('vmId'),
    subscriptionId: text('subscriptionId'),
    nonce,
    createdAt: readTime(times?.['createdOn']),
    expiresAt: readTime(times?.['expiresOn']),
  };
}

function freshNonce(): string {
  return randomBytes(nonceBytes).toString('hex');
}

interface Trust {
  readonly roots: readonly Uint8Array[];
  readonly intermediates: readonly Uint8Array[];
  readonly domains: readonly string[];
}

function readTenants(configured: readonly AzureTenant[]): ReadonlyMap<string, string> {
  const tenants = new Map<string, string>();
  for (const { tenantId, subscriptions } of configured) {
    for (const subscription of subscriptions) {
      if (!uuidForm.test(subscription) || !uuidForm.test(tenantId)) {
        throw badOptions('a tenant or subscription is no UUID in lower case');
      }
      if (tenants.has(subscription)) throw badOptions('a subscription is named twice');
      tenants.set(subscription, tenantId);
    }
  }
  if (tenants.size === 0) throw badOptions('no subscription is allowed');
  return tenants;
}

function readAuthorities(pem: string): readonly Uint8Array[] {
  const authorities = parsePemCertificates(pem);
  for (const der of authorities) parseCertificate(der);
  return authorities;
}

/** The metadata beside the document is the node's word, and not looked at. */
function readMessage(response: Uint8Array): Uint8Array {
  const document = readObject(response, 'azure-imds.malformed')['document'];
  const { encoding, signature } = (isJsonObject(document) ? document : {}) as { readonly [name: string]: unknown };
  if (encoding !== 'pkcs7') throw malformed('the encoding of the document is not pkcs7');
  const message = typeof signature === 'string' && signature !== '' ? decodeBase64(signature) : undefined;
  if (message === undefined) throw malformed('the signature of the document is missing or not in base64');
  return message;
}

/** The certificate that signed is the one whose path and names are checked: it comes out of the verification. */
function verifyDocument(message: Uint8Array, trust: Trust, at: number): SignedContent {
  let content: SignedContent;
  try {
    const data = readSignedData(message, { streamed: false });
    const [signer, ...others] = data.enclosed.map((der) => parseCertificate(der)).filter((one) => isSigner(data, one));
    if (signer === undefined || others.some(({ der }) => !sameBytes(der, signer.der))) {
      throw new SpiffeError('invalid', 'cms.signer', 'message does not enclose the one certificate it is signed with');
    }
    content = verifySignedData(data, signer);
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw new SpiffeError('invalid', 'azure-imds.signature', told(`the document is not verified: ${cause.message}`), { cause });
  }
  checkSigner(content.signer, trust, at);
  return content;
}

function checkSigner(signer: Certificate, { roots, intermediates, domains }: Trust, at: number): void {
  try {
    verifyCertificate({ chain: [signer.der, ...intermediates], authorities: roots, at, usage: 'server' });
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    const message = told(`nobody vouches for the signer of the document: ${cause.message}`);
    throw new SpiffeError('invalid', 'azure-imds.certificate', message, { cause });
  }
  // The roots vouch for half the web; only the names tell Azure's metadata service from everybody else.
  const isNamed = signer.dnsNames.some((name) =>
    domains.some((domain) => name === domain || (name.endsWith(`.${domain}`) && domainForm.test(name))),
  );
  const isServer = signer.extKeyUsage?.includes(oid.serverAuth) ?? false;
  if (!isNamed || !isServer || signer.isAuthority) {
    throw new SpiffeError('invalid', 'azure-imds.certificate', told('the signer of the document is not the metadata service'));
  }
}

function checkFresh({ nonce, createdAt, expiresAt }: AzureMachine, posed: string, at: number): void {
  if (nonce !== posed) {
    throw new SpiffeError('invalid', 'azure-imds.nonce', told('the document is not an answer to the challenge'));
  }
  if ((createdAt !== undefined && createdAt > at + leewayMs) || (expiresAt !== undefined && at > expiresAt + leewayMs)) {
    throw new SpiffeError('denied', 'azure-imds.expired', told('the document does not count now'));
  }
}

function readTime(value: unknown): number | undefined {
  if (value === undefined) return undefined;
  const [, month, day, year, time] = (typeof value === 'string' ? timeForm.exec(value) : null) ?? [];
  const written = `20${year}-${month}-${day}T${time}.000Z`;
  const instant = Date.parse(written);
  if (Number.isNaN(instant) || new Date(instant).toISOString() !== written) throw badDocument('it has an instant that is none');
  return instant;
}

function readObject(bytes: Uint8Array, reason: 'azure-imds.malformed' | 'azure-imds.document'): JsonObject {
  try {
    const value = parseJson(bytes, { maxBytes: maxResponseBytes, maxDepth: 6, integers: 'number' });
    if (isJsonObject(value)) return value;
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw reason === 'azure-imds.malformed' ? malformed(cause.message, cause) : badDocument(cause.message, cause);
  }
  throw reason === 'azure-imds.malformed' ? malformed('it is no object') : badDocument('it is no object');
}

function malformed(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'azure-imds.malformed', told(`attestation data cannot be read: ${what}`), { cause });
}

function badDocument(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'azure-imds.document', told(`the document cannot be read: ${what}`), { cause });
}

function badOptions(what: string): SpiffeError {
  return new SpiffeError('invalid', 'azure-imds.options', told(what));
}

function told(what: string): string {
  return `nodeattestor(${type}): ${what}`;
}
