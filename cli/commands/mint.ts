/**
 * `steeple x509 mint`, `jwt mint` and `wit mint`: credentials that an operator has signed without an entry. The key of an
 * X509-SVID or a WIT-SVID is made here and stays here; the server sees its public half only.
 */
import { generateKeyPairSync } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { bundleFromMessage } from '../../proto/convert/bundle.ts';
import { idToMessage } from '../../proto/convert/id.ts';
import { jwtSvidFromMessage, x509SvidFromMessage } from '../../proto/convert/svid.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId } from '../../spiffe/id.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { formatPrivateJwk } from '../../spiffe/wit-svid.ts';
import { composeRequest } from '../../spiffe/x509/request.ts';
import { command, type Command, exitCodes } from '../command.ts';
import type { FlagSpec } from '../flags.ts';
import { serverSocketFlag, withServer } from '../operators.ts';
import { instant, json, outputFlag, outputForm } from '../print.ts';

const svids = 'spire.api.server.svid.v1.SVID';
const bundles = 'spire.api.server.bundle.v1.Bundle';

const mintFlags = {
  'spiffe-id': { type: 'text', value: 'ID', summary: 'the identity' },
  ttl: { type: 'duration', value: 'TIME', summary: "its life; the server's default unless given" },
} as const satisfies Record<string, FlagSpec>;

export const mintCommands: readonly Command[] = [
  command({
    name: 'x509 mint',
    summary: 'have an X509-SVID signed and print it with its key and bundle, or write them to a directory',
    flags: {
      ...serverSocketFlag,
      ...mintFlags,
      dns: { type: 'list', value: 'NAME', summary: 'a DNS name; may be repeated' },
      dir: { type: 'text', value: 'DIR', summary: 'write svid.pem, key.pem and bundle.pem here' },
    },
    async run({ flags }, io) {
      const uri = wantedId(flags['spiffe-id']);
      const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const csr = composeRequest({ privateKey, uris: [uri], dnsNames: flags.dns });
      return withServer(flags.socket, io, [svids, bundles], async ({ client, services, signal }) => {
        const { svid } = await client.unary(services[svids].MintX509SVID, { csr, ttl: flags.ttl ?? 0 }, { signal });
        const bundle = bundleFromMessage(await client.unary(services[bundles].GetBundle, {}, { signal }));
        const parts = {
          'svid.pem': formatPemCertificates(x509SvidFromMessage(svid).certificates),
          'key.pem': String(privateKey.export({ type: 'pkcs8', format: 'pem' })),
          'bundle.pem': formatPemCertificates(bundle.x509Authorities.map(({ certificate }) => certificate)),
        };
        const { dir } = flags;
        if (dir === undefined) {
          io.out(`X509-SVID:\n${parts['svid.pem']}\nPrivate key:\n${parts['key.pem']}\nRoot CAs:\n${parts['bundle.pem']}`);
          return exitCodes.ok;
        }
        await writeNew(dir, parts);
        io.err(`written to ${dir}\n`);
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'jwt mint',
    summary: 'have a JWT-SVID signed and print it',
    flags: {
      ...serverSocketFlag,
      ...outputFlag,
      ...mintFlags,
      audience: { type: 'list', value: 'NAME', summary: 'who it is for; may be repeated' },
    },
    async run({ flags }, io) {
      const id = parseSpiffeId(wantedId(flags['spiffe-id']));
      if (flags.audience.length === 0) throw new SpiffeError('invalid', 'cli.mint.audience', '--audience is needed');
      const request = { id: idToMessage(id), audience: [...flags.audience], ttl: flags.ttl ?? 0 };
      return withServer(flags.socket, io, [svids], async ({ client, services, signal }) => {
        const svid = jwtSvidFromMessage((await client.unary(services[svids].MintJWTSVID, request, { signal })).svid);
        if (outputForm(flags.output) === 'json') io.out(json({ spiffeId: svid.id, token: svid.token, expiresAt: instant(svid.expiresAt) }));
        else io.out(`${svid.token}\n`);
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'wit mint',
    summary: 'have a WIT-SVID signed and print it with its key, where the server issues them',
    flags: { ...serverSocketFlag, ...outputFlag, ...mintFlags },
    async run({ flags }, io) {
      const id = parseSpiffeId(wantedId(flags['spiffe-id']));
      const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const request = {
        id: idToMessage(id),
        public_key: publicKey.export({ type: 'spki', format: 'der' }),
        signing_algorithm: 'ES256',
        ttl: flags.ttl ?? 0,
      };
      return withServer(flags.socket, io, [svids], async ({ client, services, signal }) => {
        const svid = jwtSvidFromMessage((await client.unary(services[svids].MintWITSVID, request, { signal })).svid);
        const key = formatPrivateJwk(privateKey, 'ES256');
        if (outputForm(flags.output) === 'json') {
          io.out(json({ spiffeId: svid.id, token: svid.token, key: JSON.parse(key) as unknown, expiresAt: instant(svid.expiresAt) }));
        } else io.out(`WIT-SVID:\n${svid.token}\n\nPrivate key:\n${key}\n`);
        return exitCodes.ok;
      });
    },
  }),
];

function wantedId(text: string | undefined): string {
  if (text === undefined) throw new SpiffeError('invalid', 'cli.mint.spiffe-id', '--spiffe-id is needed');
  return parseSpiffeId(text);
}

/** Nothing is overwritten: a key that is gone cannot be made again. */
async function writeNew(dir: string, parts: Readonly<Record<string, string>>): Promise<void> {
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    for (const [name, text] of Object.entries(parts)) {
      await writeFile(join(dir, name), text, { mode: name === 'key.pem' ? 0o600 : 0o644, flag: 'wx' });
    }
  } catch (cause) {
    const there = cause instanceof Error && 'code' in cause && cause.code === 'EEXIST';
    if (there) throw new SpiffeError('exists', 'cli.file.exists', `${dir} holds such files already`, { cause });
    throw new SpiffeError('unavailable', 'cli.file.unwritable', `cannot write to ${dir}`, { cause });
  }
}
