/**
 * A TPM in software: real keys, real statements and credentials, room for three objects, and faults on demand. It knows the
 * commands that attestation needs and none of the code that sends them; what a real TPM does is for the engines' tests.
 */
import { constants, createECDH, createHash, createHmac, createDecipheriv, generateKeyPairSync, privateDecrypt, privateEncrypt, randomBytes, sign, type KeyObject } from 'node:crypto';
import { createServer, type Server } from 'node:net';

const TWO = (value: number): Buffer => Buffer.from([(value >> 8) & 0xff, value & 0xff]);
const FOUR = (value: number): Buffer => Buffer.concat([TWO(value >>> 16), TWO(value & 0xffff)]);
const behindSize = (...parts: readonly Uint8Array[]): Buffer => {
  const content = Buffer.concat(parts);
  return Buffer.concat([TWO(content.length), content]);
};

/** TPMA_OBJECT of the keys in an attestation. */
export const keyAttributes = { devid: 0x0004_0072, attestation: 0x0005_0072, endorsement: 0x0003_00b2, storage: 0x0003_0472 } as const;
export const generatedValue = 0xff54_4347;
export const certifyStatement = 0x8017;

export interface AreaForm {
  readonly key: KeyObject;
  readonly attributes: number;
  /** Name algorithm; SHA-256 without one. */
  readonly nameHash?: number;
  /** `[scheme, hash]`; without one, none. */
  readonly scheme?: readonly [number, number] | undefined;
  /** Bits of AES in CFB mode; without them, none. */
  readonly aesBits?: number | undefined;
  readonly policy?: Uint8Array;
}

/** TPMT_PUBLIC of any key with any attributes. */
export function areaOf({ key, attributes, nameHash = 0x000b, scheme, aesBits, policy = new Uint8Array() }: AreaForm): Buffer {
  const isRsa = key.asymmetricKeyType === 'rsa';
  const jwk = key.export({ format: 'jwk' });
  const symmetric = aesBits === undefined ? TWO(0x0010) : Buffer.concat([TWO(0x0006), TWO(aesBits), TWO(0x0043)]);
  const signing = scheme === undefined ? TWO(0x0010) : Buffer.concat(scheme.map(TWO));
  const number = (text: string | undefined): Buffer => behindSize(Buffer.from(text ?? '', 'base64url'));
  const curve = key.asymmetricKeyDetails?.namedCurve === 'secp384r1' ? 0x0004 : 0x0003;
  return Buffer.concat([
    TWO(isRsa ? 0x0001 : 0x0023),
    TWO(nameHash),
    FOUR(attributes),
    behindSize(policy),
    symmetric,
    signing,
    ...(isRsa
      ? [TWO(key.asymmetricKeyDetails?.modulusLength ?? 0), FOUR(0), number(jwk.n)]
      : [TWO(curve), TWO(0x0010), number(jwk.x), number(jwk.y)]),
  ]);
}

const hashName = (id: number): 'sha256' | 'sha384' => (id === 0x000c ? 'sha384' : 'sha256');

export function areaName(area: Uint8Array): Buffer {
  const id = Buffer.from(area).readUInt16BE(2);
  return Buffer.concat([TWO(id), createHash(hashName(id)).update(area).digest()]);
}

export interface StatementForm {
  readonly name: Uint8Array;
  readonly magic?: number;
  readonly type?: number;
}

/** TPMS_ATTEST. */
export function statementOf({ name, magic = generatedValue, type = certifyStatement }: StatementForm): Buffer {
  const qualified = behindSize(Buffer.concat([TWO(0x000b), randomBytes(32)]));
  return Buffer.concat([FOUR(magic), TWO(type), qualified, behindSize(), Buffer.alloc(17), Buffer.alloc(8), behindSize(name), qualified]);
}

/** TPMT_SIGNATURE over `message`, in SHA-256. */
export function signatureOf(message: Uint8Array, key: KeyObject, asIf?: number): Buffer {
  if (key.asymmetricKeyType === 'rsa') return Buffer.concat([TWO(asIf ?? 0x0014), TWO(0x000b), behindSize(sign('sha256', message, key))]);
  const both = sign('sha256', message, { key, dsaEncoding: 'ieee-p1363' });
  const half = both.length / 2;
  // Some TPMs leave out leading zeros.
  const without = (octets: Buffer): Buffer => octets.subarray(octets.findIndex((octet) => octet !== 0));
  return Buffer.concat([TWO(asIf ?? 0x0018), TWO(0x000b), behindSize(without(both.subarray(0, half))), behindSize(without(both.subarray(half)))]);
}

export interface SoftKey {
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  /** TPMT_PUBLIC. */
  readonly area: Buffer;
}

export function softKey(kind: 'rsa' | 'P-256' | 'P-384', form: Omit<AreaForm, 'key'>): SoftKey {
  const pair = kind === 'rsa' ? generateKeyPairSync('rsa', { modulusLength: 2048 }) : generateKeyPairSync('ec', { namedCurve: kind });
  return { ...pair, area: areaOf({ key: pair.publicKey, ...form }) };
}

/** PolicyA in SHA-256, PolicyB in SHA-384. */
export const endorsementPolicies = {
  low: Buffer.from('837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa', 'hex'),
  high: Buffer.from('b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12', 'hex'),
} as const;

/** As templates L-1, L-2 and H-3 give it. */
export function softEndorsementKey(kind: 'rsa' | 'P-256' | 'P-384'): SoftKey {
  return kind === 'P-384'
    ? softKey(kind, { attributes: keyAttributes.endorsement | 0x40, aesBits: 256, nameHash: 0x000c, policy: endorsementPolicies.high })
    : softKey(kind, { attributes: keyAttributes.endorsement, aesBits: 128, policy: endorsementPolicies.low });
}

export function softAttestationKey(kind: 'rsa' | 'P-256' = 'rsa', attributes: number = keyAttributes.attestation): SoftKey {
  return softKey(kind, { attributes, scheme: kind === 'rsa' ? [0x0014, 0x000b] : [0x0018, 0x000b] });
}

/** Opens a credential as a TPM does; nothing for one that is not for this key and name. */
export function openCredential(endorsement: SoftKey, name: Uint8Array, credential: Uint8Array, secret: Uint8Array): Buffer | undefined {
  const id = endorsement.area.readUInt16BE(2);
  const hash = hashName(id);
  const bytes = hash === 'sha384' ? 48 : 32;
  const seed = openSeed(endorsement, secret, hash, bytes);
  if (seed === undefined || credential.length < 2 + bytes || Buffer.from(credential).readUInt16BE(0) !== bytes) return undefined;
  const derived = (label: string, context: Uint8Array, length: number): Buffer =>
    createHmac(hash, seed).update(FOUR(1)).update(`${label}\0`).update(context).update(FOUR(length * 8)).digest().subarray(0, length);
  const identity = credential.subarray(2 + bytes);
  const mac = createHmac(hash, derived('INTEGRITY', new Uint8Array(), bytes)).update(identity).update(name).digest();
  if (!mac.equals(credential.subarray(2, 2 + bytes))) return undefined;
  const aesBytes = hash === 'sha384' ? 32 : 16;
  const decipher = createDecipheriv(`aes-${aesBytes * 8}-cfb`, derived('STORAGE', name, aesBytes), Buffer.alloc(16));
  const plain = Buffer.concat([decipher.update(identity), decipher.final()]);
  return plain.length >= 2 && plain.readUInt16BE(0) === plain.length - 2 ? plain.subarray(2) : undefined;
}

function openSeed({ privateKey, publicKey }: SoftKey, secret: Uint8Array, hash: string, bytes: number): Buffer | undefined {
  try {
    if (privateKey.asymmetricKeyType === 'rsa') {
      const padding = constants.RSA_PKCS1_OAEP_PADDING;
      return privateDecrypt({ key: privateKey, padding, oaepHash: hash, oaepLabel: Buffer.from('IDENTITY\0') }, secret);
    }
    const [x, rest] = taken(Buffer.from(secret));
    const [y] = taken(rest);
    const ecdh = createECDH(privateKey.asymmetricKeyDetails?.namedCurve ?? '');
    ecdh.setPrivateKey(Buffer.from(privateKey.export({ format: 'jwk' }).d ?? '', 'base64url'));
    const z = ecdh.computeSecret(Buffer.concat([Buffer.of(4), x, y]));
    const own = Buffer.from(publicKey.export({ format: 'jwk' }).x ?? '', 'base64url');
    return createHash(hash).update(FOUR(1)).update(z).update('IDENTITY\0').update(x).update(own).digest().subarray(0, bytes);
  } catch {
    return undefined;
  }
}

function taken(bytes: Buffer): readonly [Buffer, Buffer] {
  const length = bytes.readUInt16BE(0);
  return [bytes.subarray(2, 2 + length), bytes.subarray(2 + length)];
}

interface SoftObject extends SoftKey {
  readonly password: Buffer;
}

const codes = { objectMemory: 0x902, handle: 0x18b, badAuth: 0x9a2, integrity: 0x1df, value: 0x1c4, commandCode: 0x143, policyFail: 0x99d, context: 0x1d6 } as const;
const commandNames: Readonly<Record<number, string>> = {
  0x131: 'CreatePrimary',
  0x147: 'ActivateCredential',
  0x148: 'Certify',
  0x14e: 'NV_Read',
  0x151: 'PolicySecret',
  0x153: 'Create',
  0x157: 'Load',
  0x15d: 'Sign',
  0x161: 'ContextLoad',
  0x162: 'ContextSave',
  0x165: 'FlushContext',
  0x169: 'NV_ReadPublic',
  0x176: 'StartAuthSession',
  0x17a: 'GetCapability',
};

export interface SoftIndex {
  readonly attributes: number;
  readonly content: Uint8Array;
}

export class SoftTpm {
  readonly endorsement: { readonly rsa: SoftKey; readonly ecc: SoftKey };
  readonly #attestation: SoftKey;
  readonly #objects = new Map<number, SoftObject>();
  readonly #sessions = new Map<number, { satisfied: boolean }>();
  readonly #blobs = new Map<string, SoftObject>();
  #contexts = new Map<string, SoftObject>();
  readonly indices = new Map<number, SoftIndex>();
  readonly passwords = { owner: '', endorsement: '' };
  /** Bytes of an index that it reads at once; nothing when it does not tell. */
  indexBytes: number | undefined = 700;
  /** Names of the commands that came, in order. */
  readonly seen: string[] = [];
  /** Most objects that were loaded at once. */
  most = 0;
  /** Answers instead of carrying a command out; nothing lets it be. */
  fault: (name: string, count: number) => number | undefined = () => undefined;

  /** Puts another answer in place of one. */
  garble: (name: string, answer: Buffer) => Buffer = (_name, answer) => answer;

  /** Keys may be given, since making them takes long; a TPM would make an attestation key each time. */
  constructor(endorsement = { rsa: softEndorsementKey('rsa'), ecc: softEndorsementKey('P-256') }, attestation = softAttestationKey()) {
    this.endorsement = endorsement;
    this.#attestation = attestation;
  }

  /** Objects and sessions in it. */
  get loaded(): number {
    return this.#objects.size + this.#sessions.size;
  }

  /** What was saved before is worth nothing after. */
  restart(): void {
    this.#objects.clear();
    this.#sessions.clear();
    this.#contexts = new Map();
  }

  /** A key under the storage root, as `TPM2_Create` gives it. */
  adopt(key: SoftKey, password = ''): { readonly privateBlob: Buffer; readonly publicBlob: Buffer } {
    const privateBlob = Buffer.concat([behindSize(randomBytes(32)), randomBytes(64)]);
    this.#blobs.set(privateBlob.toString('hex'), { ...key, password: Buffer.from(password) });
    return { privateBlob, publicBlob: key.area };
  }

  transmit(command: Buffer): Buffer {
    const code = command.readUInt32BE(6);
    const name = commandNames[code] ?? String(code);
    this.seen.push(name);
    const fault = this.fault(name, this.seen.filter((one) => one === name).length);
    if (fault !== undefined) return response(0x8001, fault);
    const outcome = this.#carryOut(name, new Reader(command.subarray(10)), command.readUInt16BE(0) === 0x8002);
    this.most = Math.max(this.most, this.#objects.size);
    if (typeof outcome === 'number') return response(0x8001, outcome);
    const handle = outcome.handle === undefined ? [] : [FOUR(outcome.handle)];
    const sessions = [FOUR(outcome.parameters.length), outcome.parameters, behindSize(), Buffer.of(1), behindSize()];
    const plain = command.readUInt16BE(0) === 0x8001;
    return this.garble(name, plain ? response(0x8001, 0, ...handle, outcome.parameters) : response(0x8002, 0, ...handle, ...sessions));
  }

  #carryOut(name: string, input: Reader, withSessions: boolean): Outcome {
    switch (name) {
      case 'CreatePrimary': {
        const owner = input.four();
        const [session] = input.sessions(withSessions);
        const expected = owner === 0x4000_000b ? this.passwords.endorsement : this.passwords.owner;
        if (session?.password.equals(Buffer.from(expected)) !== true) return codes.badAuth;
        const password = new Reader(input.run()).run();
        const template = input.run();
        const isRsa = template.readUInt16BE(0) === 0x0001;
        const kept = owner === 0x4000_000b ? this.endorsement[isRsa ? 'rsa' : 'ecc'] : { ...this.#attestation, area: template };
        return this.#load({ ...kept, password }, (object) => behindSize(object.area));
      }
      case 'Create': {
        const parent = this.#objects.get(input.four());
        const [session] = input.sessions(withSessions);
        if (parent === undefined) return codes.handle;
        if (session?.password.equals(parent.password) !== true) return codes.badAuth;
        const password = new Reader(input.run()).run();
        const { privateBlob, publicBlob } = this.adopt(this.#attestation);
        this.#blobs.set(privateBlob.toString('hex'), { ...this.#attestation, password });
        return { parameters: Buffer.concat([behindSize(privateBlob), behindSize(publicBlob)]) };
      }
      case 'Load': {
        const parent = this.#objects.get(input.four());
        const [session] = input.sessions(withSessions);
        if (parent === undefined) return codes.handle;
        if (session?.password.equals(parent.password) !== true) return codes.badAuth;
        const object = this.#blobs.get(input.run().toString('hex'));
        if (object === undefined || !object.area.equals(input.run())) return codes.integrity;
        return this.#load(object, (loaded) => behindSize(areaName(loaded.area)));
      }
      case 'Certify': {
        const [object, signer] = [this.#objects.get(input.four()), this.#objects.get(input.four())];
        const [first, second] = input.sessions(withSessions);
        if (object === undefined || signer === undefined) return codes.handle;
        if (first?.password.equals(object.password) !== true || second?.password.equals(signer.password) !== true) return codes.badAuth;
        const statement = statementOf({ name: areaName(object.area) });
        return { parameters: Buffer.concat([behindSize(statement), signatureOf(statement, signer.privateKey)]) };
      }
      case 'Sign': {
        const key = this.#objects.get(input.four());
        const [session] = input.sessions(withSessions);
        if (key === undefined) return codes.handle;
        if (session?.password.equals(key.password) !== true) return codes.badAuth;
        return { parameters: signedDigest(input.run(), key.privateKey) };
      }
      case 'ActivateCredential': {
        const [object, key] = [this.#objects.get(input.four()), this.#objects.get(input.four())];
        const [first, second] = input.sessions(withSessions);
        if (object === undefined || key === undefined) return codes.handle;
        if (first?.password.equals(object.password) !== true) return codes.badAuth;
        if (this.#sessions.get(second?.handle ?? 0)?.satisfied !== true) return codes.policyFail;
        const secret = openCredential(key, areaName(object.area), input.run(), input.run());
        return secret === undefined ? codes.integrity : { parameters: behindSize(secret) };
      }
      case 'StartAuthSession': {
        const handle = 0x0300_0000 + this.#sessions.size;
        this.#sessions.set(handle, { satisfied: false });
        return { handle, parameters: behindSize(randomBytes(32)) };
      }
      case 'PolicySecret': {
        input.four();
        const session = this.#sessions.get(input.four());
        const [authorization] = input.sessions(withSessions);
        if (session === undefined) return codes.handle;
        if (authorization?.password.equals(Buffer.from(this.passwords.endorsement)) !== true) return codes.badAuth;
        session.satisfied = true;
        return { parameters: Buffer.concat([behindSize(), TWO(0x8023), FOUR(0x4000_000b), behindSize()]) };
      }
      case 'ContextSave': {
        const object = this.#objects.get(input.four());
        if (object === undefined) return codes.handle;
        const context = randomBytes(64);
        this.#contexts.set(context.toString('hex'), object);
        return { parameters: context };
      }
      case 'ContextLoad': {
        const object = this.#contexts.get(input.rest().toString('hex'));
        return object === undefined ? codes.context : this.#load(object, () => Buffer.alloc(0));
      }
      case 'FlushContext': {
        const handle = input.four();
        return this.#objects.delete(handle) || this.#sessions.delete(handle) ? { parameters: Buffer.alloc(0) } : codes.handle;
      }
      case 'NV_ReadPublic': {
        const number = input.four();
        const index = this.indices.get(number);
        if (index === undefined) return codes.handle;
        const area = Buffer.concat([FOUR(number), TWO(0x000b), FOUR(index.attributes), behindSize(), TWO(index.content.length)]);
        return { parameters: Buffer.concat([behindSize(area), behindSize(randomBytes(34))]) };
      }
      case 'NV_Read': {
        const authority = input.four();
        const index = this.indices.get(input.four());
        const [session] = input.sessions(withSessions);
        const [size, offset] = [input.two(), input.two()];
        if (index === undefined) return codes.handle;
        const byOwner = authority === 0x4000_0001;
        const allowed = byOwner ? (index.attributes & 0x0002_0000) !== 0 : (index.attributes & 0x0004_0000) !== 0;
        if (!allowed || session?.password.equals(Buffer.from(byOwner ? this.passwords.owner : '')) !== true) return codes.badAuth;
        return size > (this.indexBytes ?? 512) || offset + size > index.content.length ? codes.value : { parameters: behindSize(index.content.slice(offset, offset + size)) };
      }
      case 'GetCapability': {
        const [capability, property] = [input.four(), input.four()];
        const told = capability === 6 && property === 0x12c && this.indexBytes !== undefined;
        return { parameters: Buffer.concat([Buffer.of(0), FOUR(6), FOUR(told ? 1 : 0), ...(told ? [FOUR(property), FOUR(this.indexBytes ?? 0)] : [])]) };
      }
      default:
        return codes.commandCode;
    }
  }

  #load(object: SoftObject, parameters: (object: SoftObject) => Buffer): Outcome {
    if (this.#objects.size >= 3) return codes.objectMemory;
    let handle = 0x8000_0000;
    while (this.#objects.has(handle)) handle += 1;
    this.#objects.set(handle, object);
    return { handle, parameters: parameters(object) };
  }
}

type Outcome = number | { readonly handle?: number; readonly parameters: Buffer };

/** A digest of SHA-256, signed as it is. */
function signedDigest(digest: Buffer, key: KeyObject): Buffer {
  if (key.asymmetricKeyType === 'rsa') {
    const info = Buffer.concat([Buffer.from('3031300d060960864801650304020105000420', 'hex'), digest]);
    const signature = privateEncrypt({ key, padding: constants.RSA_PKCS1_PADDING }, info);
    return Buffer.concat([TWO(0x0014), TWO(0x000b), behindSize(signature)]);
  }
  // node:crypto signs messages, not digests, with such keys; one point of the curve is all it is needed for.
  const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
  const number = (bytes: Uint8Array): bigint => BigInt(`0x${Buffer.from(bytes).toString('hex')}`);
  const ecdh = createECDH('prime256v1');
  const r = number(ecdh.generateKeys().subarray(1, 33)) % order;
  const secret = number(Buffer.from(key.export({ format: 'jwk' }).d ?? '', 'base64url'));
  const s = (inverse(number(ecdh.getPrivateKey()), order) * (number(digest) + r * secret)) % order;
  const octets = (value: bigint): Buffer => Buffer.from(value.toString(16).padStart(64, '0'), 'hex');
  return Buffer.concat([TWO(0x0018), TWO(0x000b), behindSize(octets(r)), behindSize(octets(s))]);
}

function inverse(value: bigint, modulus: bigint): bigint {
  let [a, b, x, y] = [value % modulus, modulus, 1n, 0n];
  while (a > 1n) {
    const quotient = a / b;
    [a, b] = [b, a % b];
    [x, y] = [y, x - quotient * y];
  }
  return x < 0n ? x + modulus : x;
}

function response(kind: number, code: number, ...parts: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  return Buffer.concat([TWO(kind), FOUR(10 + body.length), FOUR(code), body]);
}

class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes);
  }

  two(): number {
    this.#at += 2;
    return this.#bytes.readUInt16BE(this.#at - 2);
  }

  four(): number {
    this.#at += 4;
    return this.#bytes.readUInt32BE(this.#at - 4);
  }

  run(): Buffer {
    const length = this.two();
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  rest(): Buffer {
    return this.#bytes.subarray(this.#at);
  }

  sessions(present: boolean): readonly { readonly handle: number; readonly password: Buffer }[] {
    if (!present) return [];
    const end = this.four() + this.#at;
    const sessions: { handle: number; password: Buffer }[] = [];
    while (this.#at < end) {
      const handle = this.four();
      this.run();
      this.#at += 1;
      sessions.push({ handle, password: this.run() });
    }
    return sessions;
  }
}

/** Serves it on a Unix socket as an emulator does: commands and responses, one after the other. */
export async function serveTpm(path: string, tpm: Pick<SoftTpm, 'transmit'>): Promise<AsyncDisposable & { readonly server: Server }> {
  const sockets = new Set<{ destroy(): unknown }>();
  const server = createServer((socket) => {
    sockets.add(socket);
    let pending = Buffer.alloc(0);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    socket.on('data', (chunk: Buffer) => {
      pending = Buffer.concat([pending, chunk]);
      while (pending.length >= 10 && pending.length >= pending.readUInt32BE(2)) {
        const length = pending.readUInt32BE(2);
        const command = pending.subarray(0, length);
        pending = pending.subarray(length);
        socket.write(tpm.transmit(command));
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return {
    server,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
