/**
 * A stand-in for the metadata services of three clouds: the same paths, headers and sessions, documents that a test puts
 * there. Azure's has a fixed address, so its machines come here by way of a proxy. What is in the documents, and who signed them, is the test's.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface InstanceDocuments {
  readonly document: string;
  readonly signature: string;
  readonly rsa2048: string;
}

export interface MetadataService extends AsyncDisposable {
  /** `host:port` */
  readonly address: string;
  /** What Amazon's instance is shown; nothing for a machine of another cloud. */
  amazon: InstanceDocuments | undefined;
  /** What Google's instance is given for an audience. */
  google: ((audience: string) => string) | undefined;
  /** The signed message that Azure's machine is given for a nonce, in base64. */
  azure: ((nonce: string) => string) | undefined;
}

const amazonSession = 'session-of-the-metadata-service';

export async function startMetadataService(): Promise<MetadataService> {
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://metadata');
    const answer = (status: number, text = ''): void => {
      response.writeHead(status, { 'content-type': 'text/plain', 'x-aws-ec2-metadata-token-ttl-seconds': '21600' });
      response.end(text);
    };
    if (request.method === 'PUT' && pathname === '/latest/api/token') return answer(200, amazonSession);
    if (request.method !== 'GET') return answer(405);
    const [, name] = /^\/latest\/dynamic\/instance-identity\/(document|signature|rsa2048)$/.exec(pathname) ?? [];
    if (name !== undefined && service.amazon !== undefined) {
      if (request.headers['x-aws-ec2-metadata-token'] !== amazonSession) return answer(401);
      return answer(200, service.amazon[name as keyof InstanceDocuments]);
    }
    if (pathname === '/computeMetadata/v1/instance/service-accounts/default/identity' && service.google !== undefined) {
      if (request.headers['metadata-flavor'] !== 'Google') return answer(403);
      if (searchParams.get('format') !== 'full') return answer(400);
      return answer(200, service.google(searchParams.get('audience') ?? ''));
    }
    if (pathname.startsWith('/metadata/') && service.azure !== undefined) {
      if (request.headers['metadata'] !== 'true' || !searchParams.has('api-version')) return answer(400);
      const compute = { name: 'machine-1', subscriptionId: 'told', resourceGroupName: 'group', vmScaleSetName: 'set' };
      if (pathname === '/metadata/instance') return answer(200, JSON.stringify({ compute }));
      if (pathname === '/metadata/attested/document') {
        return answer(200, JSON.stringify({ encoding: 'pkcs7', signature: service.azure(searchParams.get('nonce') ?? '') }));
      }
    }
    return answer(404);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const service: MetadataService = {
    address: `127.0.0.1:${port}`,
    amazon: undefined,
    google: undefined,
    azure: undefined,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return service;
}
