/**
 * Who vouches for an X509-SVID: a path from its leaf to an authority of the leaf's own trust domain, valid at one
 * instant [RFC 5280 6.1]. Where bundles come from and what an ID may do are left to the callers.
 */
import { createPublicKey, verify, type KeyObject } from 'node:crypto';
import { SpiffeError } from '../errors.ts';
import { trustDomainOf, type SpiffeId, type TrustDomain } from '../id.ts';
import { checkLeaf } from '../x509-svid.ts';
import { hasKeyUsage, parseCertificate, type Certificate } from './certificate.ts';
import { keyUsage, oid, rsaBits, sameBytes, signatureSchemes } from './names.ts';
import { checkNameConstraints } from './name-constraints.ts';

/** In which role the peer was met; its extended key usage, when it has one, must allow it. */
export type Usage = 'server' | 'client';

export interface VerifyRequest {
  /** DER, leaf first, the rest in any order. */
  readonly chain: readonly Uint8Array[];
  /** DER of the authorities of the leaf's trust domain and of no other (X509-28). Never to be changed: what was read is kept. */
  readonly authorities: readonly Uint8Array[];
  /** Epoch milliseconds. */
  readonly at: number;
  readonly usage?: Usage;
}

export interface VerifiedPath {
  readonly leaf: Certificate;
  /** The authority the path ends in: one of those given. */
  readonly authority: Certificate;
  /** From the leaf to the authority, both included. */
  readonly path: readonly Certificate[];
}

export interface VerifiedPeer extends VerifiedPath {
  readonly spiffeId: SpiffeId;
}

/** An honest chain needs one signature check a certificate; a crafted one gets no more than this. */
const maxSignatureChecks = 32;
const maxPathLength = 10;
const maxChainLength = 32;
const nodeCurves: ReadonlySet<string | undefined> = new Set(['prime256v1', 'secp384r1', 'secp521r1']);

/**
 * Finds the path or says why there is none.
 * @throws invalid as `parseCertificate` and `checkLeaf`, `x509.path.empty-chain|long-chain`;
 *   unauthenticated `x509.path.no-authorities|unknown-authority|not-yet-valid|expired|not-authority|key-cert-sign|path-length|
 *   signature|signature-algorithm|weak-key|name-constraint|usage|effort`
 */
export function verifyX509Svid(request: VerifyRequest): VerifiedPeer {
  const leaf = readLeaf(request.chain);
  return verifyLeaf(leaf, checkLeaf(leaf), request);
}

/**
 * As `verifyX509Svid` for a peer of any trust domain: reads the ID first and asks for that domain's authorities alone.
 * @throws as `verifyX509Svid`; unauthenticated `x509.path.unknown-trust-domain`
 */
export function verifyPeer(
  chain: readonly Uint8Array[],
  bundleFor: (trustDomain: TrustDomain) => readonly Uint8Array[] | undefined,
  at: number,
  usage?: Usage,
): VerifiedPeer {
  const leaf = readLeaf(chain);
  const spiffeId = checkLeaf(leaf);
  const trustDomain = trustDomainOf(spiffeId);
  const authorities = bundleFor(trustDomain);
  if (authorities === undefined) {
    throw new SpiffeError(
      'unauthenticated',
      'x509.path.unknown-trust-domain',
      'there is no bundle for the trust domain of the peer',
      { detail: { trustDomain } },
    );
  }
  return verifyLeaf(leaf, spiffeId, { chain, authorities, at, ...(usage === undefined ? {} : { usage }) });
}

/**
 * As `verifyX509Svid` for a certificate that is no SVID and has no SPIFFE ID: what it says of its holder is the caller's
 * to judge.
 * @throws as `verifyX509Svid`, but for `checkLeaf`
 */
export function verifyCertificate(request: VerifyRequest): VerifiedPath {
  return findPath(readLeaf(request.chain), request);
}

function readLeaf(chain: readonly Uint8Array[]): Certificate {
  const [leaf] = chain;
  if (leaf === undefined) throw new SpiffeError('invalid', 'x509.path.empty-chain', 'there is no certificate');
  if (chain.length > maxChainLength) throw new SpiffeError('invalid', 'x509.path.long-chain', 'chain has too many certificates');
  return parseCertificate(leaf);
}

function verifyLeaf(leaf: Certificate, spiffeId: SpiffeId, request: VerifyRequest): VerifiedPeer {
  return Object.freeze({ spiffeId, ...findPath(leaf, request) });
}

function findPath(leaf: Certificate, request: VerifyRequest): VerifiedPath {
  const { at, usage } = request;
  if (request.authorities.length === 0) {
    throw new SpiffeError('unauthenticated', 'x509.path.no-authorities', 'the bundle holds no X.509 authority');
  }
  checkValidity(leaf, at);
  if (usage !== undefined) checkUsage(leaf, usage);
  const search: Search = {
    at,
    // An authority of a foreign bundle that cannot be read vouches for nobody; it must not stop the others.
    anchors: request.authorities.flatMap(readAnchor),
    intermediates: request.chain.slice(1).map((der) => ({ certificate: parseCertificate(der), key: undefined })),
    checksLeft: maxSignatureChecks,
    failure: undefined,
  };
  const path = extend([leaf], search);
  if (path === undefined) {
    throw search.failure ?? new SpiffeError(
      'unauthenticated',
      'x509.path.unknown-authority',
      'certificate is not signed by an authority of its trust domain',
    );
  }
  const authority = path.at(-1) ?? leaf;
  return Object.freeze({ leaf, authority, path });
}

interface Known {
  readonly certificate: Certificate;
  /** Made when first needed, then kept. */
  key: KeyObject | undefined;
}

interface Search {
  readonly at: number;
  readonly anchors: readonly Known[];
  readonly intermediates: readonly Known[];
  checksLeft: number;
  /** The first thing that was wrong with a candidate, told when no path is found. */
  failure: SpiffeError | undefined;
}

/** Depth first: anchors before intermediates, issuers whose key identifier matches before others. */
function extend(path: readonly Certificate[], search: Search): readonly Certificate[] | undefined {
  const subject = path.at(-1);
  if (subject === undefined || path.length >= maxPathLength) return undefined;
  const known = [...candidates(subject, search.anchors, true), ...candidates(subject, search.intermediates, false)];
  for (const { issuer, isAnchor } of known) {
    if (path.some((passed) => sameBytes(passed.der, issuer.certificate.der))) continue;
    try {
      checkIssuer(issuer.certificate, path, search.at, isAnchor);
      checkSignature(subject, issuer, search);
    } catch (error) {
      if (!(error instanceof SpiffeError)) throw error;
      search.failure ??= error;
      if (search.checksLeft === 0) return undefined;
      continue;
    }
    const longer = [...path, issuer.certificate];
    if (isAnchor) return longer;
    const complete = extend(longer, search);
    if (complete !== undefined) return complete;
  }
  return undefined;
}

function candidates(subject: Certificate, pool: readonly Known[], isAnchor: boolean): { issuer: Known; isAnchor: boolean }[] {
  const named = pool.filter(({ certificate }) => sameBytes(certificate.subject, subject.issuer));
  return named
    .map((issuer) => ({ issuer, isAnchor }))
    .toSorted((a, b) => Number(isHinted(subject, b.issuer.certificate)) - Number(isHinted(subject, a.issuer.certificate)));
}

/** Key identifiers are hints: they say where to look first, never whom to trust. */
function isHinted(subject: Certificate, issuer: Certificate): boolean {
  const { authorityKeyId } = subject;
  const { subjectKeyId } = issuer;
  return authorityKeyId !== undefined && subjectKeyId !== undefined && sameBytes(authorityKeyId, subjectKeyId);
}

function checkIssuer(issuer: Certificate, path: readonly Certificate[], at: number, isAnchor: boolean): void {
  if (!issuer.isAuthority) {
    throw new SpiffeError('unauthenticated', 'x509.path.not-authority', 'a certificate above the leaf is no authority');
  }
  // An anchor is trusted by configuration and may lack the extension, as Go has it; whoever is not must have it (X509-17).
  if (!hasKeyUsage(issuer, keyUsage.keyCertSign) && !(isAnchor && issuer.keyUsage === undefined)) {
    throw new SpiffeError('unauthenticated', 'x509.path.key-cert-sign', 'a certificate above the leaf may not sign certificates');
  }
  // Everything between this one and the leaf counts, except what issued itself [RFC 5280 4.2.1.9].
  const between = path.slice(1).filter((certificate) => !sameBytes(certificate.subject, certificate.issuer)).length;
  if (issuer.pathLen !== undefined && between > issuer.pathLen) {
    throw new SpiffeError('unauthenticated', 'x509.path.path-length', 'an authority does not allow a path as long as this');
  }
  checkValidity(issuer, at);
  for (const below of path) checkNameConstraints(issuer, below);
}

/** Both ends belong to the validity [RFC 5280 4.1.2.5]; a fraction of a second past the end is past it, as for Go and OpenSSL. */
function checkValidity(certificate: Certificate, at: number): void {
  const detail = { notBeforeAt: certificate.notBeforeAt, notAfterAt: certificate.notAfterAt, at };
  if (at < certificate.notBeforeAt) {
    throw new SpiffeError('unauthenticated', 'x509.path.not-yet-valid', 'certificate is not valid yet', { detail });
  }
  if (at > certificate.notAfterAt) {
    throw new SpiffeError('unauthenticated', 'x509.path.expired', 'certificate has expired', { detail });
  }
}

function checkUsage(leaf: Certificate, usage: Usage): void {
  const wanted = usage === 'server' ? oid.serverAuth : oid.clientAuth;
  if (leaf.extKeyUsage !== undefined && !leaf.extKeyUsage.some((one) => one === wanted || one === oid.anyExtKeyUsage)) {
    throw new SpiffeError('unauthenticated', 'x509.path.usage', `leaf may not be used as a ${usage}`);
  }
}

function checkSignature(subject: Certificate, issuer: Known, search: Search): void {
  if (search.checksLeft === 0) {
    throw new SpiffeError('unauthenticated', 'x509.path.effort', 'chain takes too many signature checks');
  }
  search.checksLeft -= 1;
  const key = keyOf(issuer);
  const scheme = subject.signatureAlgorithm === undefined ? undefined : signatureSchemes[subject.signatureAlgorithm];
  if (scheme === undefined || scheme.keyType !== key.asymmetricKeyType) {
    throw new SpiffeError(
      'unauthenticated',
      'x509.path.signature-algorithm',
      'certificate is signed with an algorithm that is not allowed',
    );
  }
  if (!verify(scheme.digest, subject.tbs, key, subject.signature)) {
    throw new SpiffeError('unauthenticated', 'x509.path.signature', 'signature of a certificate does not verify');
  }
}

function keyOf(issuer: Known): KeyObject {
  if (issuer.key !== undefined) return issuer.key;
  let key: KeyObject;
  try {
    key = createPublicKey({ key: Buffer.from(issuer.certificate.spki), format: 'der', type: 'spki' });
  } catch (cause) {
    throw new SpiffeError('unauthenticated', 'x509.path.weak-key', 'key of an authority cannot be read', { cause });
  }
  const { modulusLength = 0, namedCurve, publicExponent = 0n } = key.asymmetricKeyDetails ?? {};
  const allowed =
    key.asymmetricKeyType === 'ed25519' ||
    (key.asymmetricKeyType === 'ec' && nodeCurves.has(namedCurve)) ||
    (key.asymmetricKeyType === 'rsa' &&
      modulusLength >= rsaBits.min &&
      modulusLength <= rsaBits.max &&
      publicExponent >= 3n &&
      publicExponent < 2n ** 31n);
  if (!allowed) {
    throw new SpiffeError(
      'unauthenticated',
      'x509.path.weak-key',
      'key of an authority is of a kind or size that is not allowed',
    );
  }
  issuer.key = key;
  return key;
}

/** What was read of an authority stays beside its bytes, and goes when they go: the same ones are met with every peer. */
const knownAnchors = new WeakMap<Uint8Array, Known>();

function readAnchor(der: Uint8Array): readonly Known[] {
  const known = knownAnchors.get(der);
  if (known !== undefined) return [known];
  try {
    const fresh: Known = { certificate: parseCertificate(der), key: undefined };
    knownAnchors.set(der, fresh);
    return [fresh];
  } catch (error) {
    if (error instanceof SpiffeError) return [];
    throw error;
  }
}
