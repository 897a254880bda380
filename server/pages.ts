/**
 * What the server shows to anybody over HTTPS put together, a part of the composition root: the bundle endpoint and OpenID
 * Connect Discovery, each on a port of its own, and what can be seen of them. What is on the pages is in `federation/`.
 */
import { X509Certificate } from 'node:crypto';
import type { Clock } from '../runtime/clock.ts';
import { openCredentialFiles } from '../runtime/credential-watch.ts';
import { answerWithDocument, type DocumentOutcome, type DocumentRefusal, type HttpDocument } from '../runtime/http-document.ts';
import { type HttpsRefusal, openHttpsServer, type ServerCredentials } from '../runtime/https-serve.ts';
import type { Logger } from '../runtime/log.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Task } from '../runtime/tasks.ts';
import type { TlsIdentity } from '../runtime/tls.ts';
import { mapWatch, type Watch } from '../runtime/watch.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { formatPemCertificates } from '../spiffe/pem.ts';
import type { ShownConfig } from './federation/config.ts';
import { bundlePage } from './federation/endpoint.ts';
import { oidcPages } from './federation/oidc.ts';

export interface PagesParts {
  readonly config: ShownConfig;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  /** Shown by the profile `https_spiffe`. */
  readonly identity: Watch<TlsIdentity>;
  /** Our own. */
  readonly bundle: Watch<Bundle>;
  /** Takes what has to be closed. */
  readonly cleanup: AsyncDisposableStack;
}

type PageName = 'bundle' | 'oidc';
type Files = { readonly certificate_file: string; readonly key_file: string };

/**
 * Opens what is configured.
 * @returns what has to run
 * @throws unavailable `https.listen`; as `openCredentialFiles`
 */
export async function openPages(parts: PagesParts): Promise<Readonly<Record<string, Task>>> {
  const { config, bundle, identity } = parts;
  const tasks: Record<string, Task> = {};
  const observer = observePages(parts);
  const { endpoint } = config.federation;
  if (endpoint !== undefined) {
    const { profile } = endpoint;
    const page = bundlePage(bundle, endpoint.refresh_hint / 1000);
    const isWeb = profile.type === 'https_web';
    const credentials = isWeb ? await filesOf('bundle', profile, parts, tasks) : mapWatch(identity, credentialsOf);
    await openPage('bundle', { ...parts, ...endpoint, credentials, find: (path) => page(path), observer }, tasks);
  }
  if (config.oidc !== undefined) {
    const { issuer, jwks_url: jwksUrl, domains, max_age: maxAgeMs } = config.oidc;
    const find = oidcPages({ issuer, jwksUrl, domains, bundle, maxAgeSeconds: maxAgeMs / 1000 });
    const credentials = await filesOf('oidc', config.oidc, parts, tasks);
    await openPage('oidc', { ...parts, ...config.oidc, credentials, find, observer }, tasks);
  }
  return tasks;
}

interface PageParts extends Pick<PagesParts, 'clock' | 'log' | 'cleanup'> {
  readonly address: string;
  readonly port: number;
  readonly credentials: Watch<ServerCredentials | undefined>;
  readonly find: (path: string, host: string | undefined) => HttpDocument | DocumentRefusal;
  readonly observer: ReturnType<typeof observePages>;
}

async function openPage(name: PageName, parts: PageParts, tasks: Record<string, Task>): Promise<void> {
  const { clock, log, cleanup, address: host, port, credentials, find, observer } = parts;
  observer.shows(name, credentials);
  const server = await openHttpsServer({
    clock,
    host,
    port,
    credentials,
    answer: (request, response) => {
      observer.answered(name, answerWithDocument(request, response, (path) => find(path, request.headers.host)));
    },
    refused: (why) => observer.refused(name, why),
  });
  cleanup.defer(() => server.close());
  log.info('page.listening', { name, address: server.address.address, port: server.address.port });
  tasks[`${name} page`] = (stop) => server.run(stop);
}

async function filesOf(
  name: PageName,
  files: Files,
  { clock, log }: PagesParts,
  tasks: Record<string, Task>,
): Promise<Watch<ServerCredentials>> {
  const followed = await openCredentialFiles({
    clock,
    certificateFile: files.certificate_file,
    keyFile: files.key_file,
    onProblem(error) {
      const reason = error instanceof SpiffeError ? error.reason : 'internal';
      if (error === undefined) log.info('page.certificate-recovered', { name });
      else log.error('page.certificate-failed', { name, reason, error });
    },
  });
  tasks[`${name} certificate`] = async (stop) => {
    const told = (async () => {
      for await (const shown of followed.credentials.values(stop)) {
        log.info('page.certificate', { name, expiresAt: expiryOf(shown) });
      }
    })();
    await Promise.all([followed.run(stop), told]);
  };
  return followed.credentials;
}

function observePages({ clock, metrics }: PagesParts) {
  const endpoint: readonly PageName[] = ['bundle', 'oidc'];
  const answers = metrics.counter({
    name: 'steeple_server_pages_total',
    help: 'Answers of the bundle endpoint and of OpenID Connect Discovery',
    labels: { endpoint, outcome: ['sent', 'unchanged', 'refused'] },
  });
  const refusals = metrics.counter({
    name: 'steeple_server_page_connections_refused_total',
    help: 'Connections of the pages that were closed without an answer',
    labels: { endpoint, reason: ['connections', 'address', 'rate', 'handshake'] },
  });
  const shown = new Map<PageName, Watch<ServerCredentials | undefined>>();
  const expiry = (name: PageName) => (): number => {
    const credentials = shown.get(name)?.value;
    return credentials === undefined ? Number.NaN : (expiryOf(credentials) - clock.now()) / 1000;
  };
  const gauge = (name: string, help: string, read: () => number): void => metrics.observedGauge({ name, help }, read);
  gauge('steeple_server_bundle_page_expiry_seconds', "Until the bundle endpoint's certificate expires", expiry('bundle'));
  gauge('steeple_server_oidc_page_expiry_seconds', 'Until the certificate of OpenID Connect Discovery expires', expiry('oidc'));
  return {
    shows(name: PageName, credentials: Watch<ServerCredentials | undefined>): void {
      shown.set(name, credentials);
    },
    answered: (name: PageName, outcome: DocumentOutcome) => answers.inc({ endpoint: name, outcome }),
    refused: (name: PageName, reason: HttpsRefusal) => refusals.inc({ endpoint: name, reason }),
  };
}

function credentialsOf({ svid }: TlsIdentity): ServerCredentials | undefined {
  if (svid === undefined) return undefined;
  const key = String(svid.privateKey.export({ type: 'pkcs8', format: 'pem' }));
  return { certificate: formatPemCertificates(svid.chain), key };
}

/** Of the leaf, which comes first. */
function expiryOf({ certificate }: ServerCredentials): number {
  return Date.parse(new X509Certificate(certificate).validTo);
}
