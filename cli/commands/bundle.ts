/**
 * `steeple bundle …`: the own bundle shown, bundles of other trust domains listed, set and deleted. Fetching them from
 * their endpoints is federation's.
 */
import { readFile } from 'node:fs/promises';
import { bundleFromMessage, bundleToMessage } from '../../proto/convert/bundle.ts';
import { systemClock } from '../../runtime/clock.ts';
import { type Bundle, x509AuthorityExpiresAt } from '../../spiffe/bundle.ts';
import { formatBundleDocument } from '../../spiffe/bundle-document.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { trustDomainFromText } from '../../spiffe/id.ts';
import { type BundleFormat, formatBundleText, parseBundleText } from '../bundle-text.ts';
import { command, type Command, exitCodes, type Io } from '../command.ts';
import type { FlagSpec } from '../flags.ts';
import { pages, serverSocketFlag, withServer } from '../operators.ts';
import { distance, json, outputFlag, outputForm, plain, table } from '../print.ts';

const service = 'spire.api.server.bundle.v1.Bundle';

const formatFlag = {
  format: { type: 'text', summary: 'pem: X.509 authorities; spiffe: the bundle document', choices: ['pem', 'spiffe'] },
} as const satisfies Record<string, FlagSpec>;

const deleteModes = { restrict: 'RESTRICT', delete: 'DELETE', dissociate: 'DISSOCIATE' } as const;

export const bundleCommands: readonly Command[] = [
  command({
    name: 'bundle show',
    summary: "print the server's own bundle",
    flags: { ...serverSocketFlag, ...formatFlag },
    async run({ flags }, io) {
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const bundle = bundleFromMessage(await client.unary(services[service].GetBundle, {}, { signal }));
        io.out(formatBundleText(bundle, bundleFormat(flags.format)));
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'bundle list',
    summary: 'list the bundles of other trust domains, or print one',
    flags: { ...serverSocketFlag, ...outputFlag, ...formatFlag, id: { type: 'text', value: 'DOMAIN', summary: 'the trust domain to print' } },
    async run({ flags }, io) {
      const { id } = flags;
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        if (id !== undefined) {
          const request = { trust_domain: trustDomainFromText(id) };
          io.out(formatBundleText(bundleFromMessage(await client.unary(services[service].GetFederatedBundle, request, { signal })), bundleFormat(flags.format)));
          return exitCodes.ok;
        }
        const bundles: Bundle[] = [];
        const fetch = async (token: string) => {
          const page = await client.unary(services[service].ListFederatedBundles, { page_size: 100, page_token: token }, { signal });
          return { items: page.bundles, next: page.next_page_token };
        };
        for await (const page of pages(fetch)) bundles.push(...page.map((message) => bundleFromMessage(message)));
        if (outputForm(flags.output) === 'json') io.out(json(bundles.map((bundle) => JSON.parse(formatBundleDocument(bundle)) as unknown)));
        else {
          const now = systemClock.now();
          io.out(
            table(
              ['TRUST DOMAIN', 'X.509', 'JWT', 'SEQUENCE', 'FIRST EXPIRY'],
              bundles.map((bundle) => [
                bundle.trustDomain,
                String(bundle.x509Authorities.length),
                String(bundle.jwtAuthorities.length),
                String(bundle.sequence),
                bundle.x509Authorities.length === 0 ? '-' : distance(Math.min(...bundle.x509Authorities.map(x509AuthorityExpiresAt)), now),
              ]),
            ),
          );
        }
        return exitCodes.ok;
      });
    },
  }),
  command({
    name: 'bundle set',
    summary: 'store the bundle of another trust domain, from a file or standard input',
    flags: {
      ...serverSocketFlag,
      ...formatFlag,
      id: { type: 'text', value: 'DOMAIN', summary: 'the trust domain' },
      path: { type: 'text', value: 'FILE', summary: 'the bundle; standard input when absent' },
    },
    async run({ flags }, io) {
      if (flags.id === undefined) throw new SpiffeError('invalid', 'cli.bundle.id', '--id is needed: a file does not say whose bundle it holds');
      const trustDomain = trustDomainFromText(flags.id);
      const text = await readBundle(flags.path, io);
      const bundle = parseBundleText(text, bundleFormat(flags.format), trustDomain);
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const request = { bundle: [bundleToMessage(bundle)] };
        const { results } = await client.unary(services[service].BatchSetFederatedBundle, request, { signal });
        const status = results[0]?.status;
        if (status?.code === 0) {
          io.out('bundle set\n');
          return exitCodes.ok;
        }
        io.err(`${plain(status?.message ?? 'no answer')}\n`);
        return exitCodes.failed;
      });
    },
  }),
  command({
    name: 'bundle delete',
    summary: 'forget the bundle of another trust domain',
    flags: {
      ...serverSocketFlag,
      id: { type: 'text', value: 'DOMAIN', summary: 'the trust domain' },
      mode: { type: 'text', summary: 'what happens to entries that federate with it', choices: ['restrict', 'delete', 'dissociate'] },
    },
    async run({ flags }, io) {
      if (flags.id === undefined) throw new SpiffeError('invalid', 'cli.bundle.id', '--id is needed');
      const mode = deleteModes[(flags.mode ?? 'restrict') as keyof typeof deleteModes];
      const request = { trust_domains: [trustDomainFromText(flags.id)], mode };
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const { results } = await client.unary(services[service].BatchDeleteFederatedBundle, request, { signal });
        const status = results[0]?.status;
        if (status?.code === 0) {
          io.out('bundle deleted\n');
          return exitCodes.ok;
        }
        io.err(`${plain(status?.message ?? 'no answer')}\n`);
        return exitCodes.failed;
      });
    },
  }),
  command({
    name: 'bundle count',
    summary: 'count the stored bundles, the own one included',
    flags: { ...serverSocketFlag, ...outputFlag },
    async run({ flags }, io) {
      return withServer(flags.socket, io, [service], async ({ client, services, signal }) => {
        const { count } = await client.unary(services[service].CountBundles, {}, { signal });
        io.out(outputForm(flags.output) === 'json' ? json({ count }) : `${count}\n`);
        return exitCodes.ok;
      });
    },
  }),
];

function bundleFormat(format: string | undefined): BundleFormat {
  return format === 'spiffe' ? 'spiffe' : 'pem';
}

async function readBundle(path: string | undefined, io: Io): Promise<string> {
  if (path === undefined || path === '-') return io.input();
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new SpiffeError('invalid', 'cli.file.unreadable', `cannot read ${path}`, { cause });
  }
}
