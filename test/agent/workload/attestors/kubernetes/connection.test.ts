import { rmSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createConnection } from '../../../../../agent/workload/attestors/kubernetes/connection.ts';
import type { Connection, ConnectionOptions } from '../../../../../agent/workload/attestors/kubernetes/connection.ts';
import { createKubernetesNode } from '../../../../help/kubernetes-node.ts';
import type { KubernetesNode } from '../../../../help/kubernetes-node.ts';
import { podOf } from '../../../../help/kubernetes-pods.ts';
import { createClusterAuthority } from '../../../../help/kubernetes-tls.ts';

const forever = new AbortController().signal;

async function withConnection(node: KubernetesNode, more: Partial<ConnectionOptions>, test: (ask: () => Promise<string>, connection: Connection) => Promise<void>): Promise<void> {
  const { clock, cluster, caFile } = node;
  const connection = createConnection({ clock, url: cluster.url, caFile, ...more });
  const ask = async (): Promise<string> => {
    const pieces: Buffer[] = [];
    for await (const piece of (await connection.ask('/pods', forever)).pieces()) pieces.push(piece);
    return Buffer.concat(pieces).toString();
  };
  try {
    await test(ask, connection);
  } finally {
    connection.close();
  }
}

function failure(reason: string, detail: object = {}): unknown {
  return expect.objectContaining({ kind: 'unavailable', reason, detail: expect.objectContaining(detail) as unknown });
}

describe('credentials', () => {
  it('are a bearer token and the authorities that vouch for the server', async () => {
    await using node = await createKubernetesNode();
    node.cluster.setPod(podOf('a-1'));
    const { tokenFile } = node;
    await withConnection(node, { tokenFile }, async (ask) => expect(await ask()).toContain('a-1'));
    expect(node.cluster.requests.map(({ token }) => token)).toEqual(['token-1']);
  });

  it('are read again for every question: a token that was renewed is used', async () => {
    await using node = await createKubernetesNode();
    const { cluster, tokenFile } = node;
    await withConnection(node, { tokenFile }, async (ask) => {
      await ask();
      cluster.tokens.delete('token-1');
      cluster.tokens.add('token-2');
      await expect(ask()).rejects.toEqual(failure('k8s.source.unauthorized', { status: 401 }));
      node.write('token', 'token-2');
      await ask();
      expect(cluster.requests.map(({ token }) => token)).toEqual(['token-1', 'token-1', 'token-2']);
    });
  });

  it('are read again: authorities that were replaced are believed, and the former not', async () => {
    await using node = await createKubernetesNode();
    const { tokenFile } = node;
    node.write('ca.crt', createClusterAuthority().ca);
    await withConnection(node, { tokenFile }, async (ask) => {
      await expect(ask()).rejects.toEqual(failure('k8s.source.tls'));
      expect(node.cluster.requests).toEqual([]);
      node.write('ca.crt', node.cluster.authority.ca);
      await ask();
    });
  });

  it('may be a certificate and its key', async () => {
    await using node = await createKubernetesNode();
    const { certificate, key } = node.cluster.authority.issue('agent-of-node-1');
    const files = { certificateFile: node.write('client.crt', certificate), keyFile: node.write('client.key', key) };
    await withConnection(node, files, async (ask) => {
      await ask();
      expect(node.cluster.requests).toMatchObject([{ client: 'agent-of-node-1', token: undefined }]);
    });
  });

  it.each([
    ['a token file that is not there', (node: KubernetesNode) => rmSync(node.tokenFile)],
    ['an empty token file', (node: KubernetesNode) => node.write('token', ' \n')],
    ['a token of two lines', (node: KubernetesNode) => node.write('token', 'one\nHost: two')],
    ['authorities that are none', (node: KubernetesNode) => node.write('ca.crt', 'none')],
  ])('that cannot be used are never sent: %s', async (_what, spoil) => {
    await using node = await createKubernetesNode();
    const { tokenFile } = node;
    spoil(node);
    await withConnection(node, { tokenFile }, async (ask) => {
      await expect(ask()).rejects.toEqual(failure('k8s.source.credentials'));
      expect(node.cluster.requests).toEqual([]);
    });
  });

  it('are not sent in the clear, and not in halves', async () => {
    await using node = await createKubernetesNode();
    const { clock, tokenFile } = node;
    const url = 'http://127.0.0.1:10255';
    for (const options of [{ url, tokenFile }, { url, caFile: tokenFile }, { url, unverified: true }, { url: node.cluster.url, certificateFile: tokenFile }]) {
      expect(() => createConnection({ clock, ...options })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'k8s.options' }));
    }
  });
});

describe('the server', () => {
  it('is refused at once where it cannot be asked', async () => {
    await using node = await createKubernetesNode();
    for (const url of ['', 'kubelet', 'ftp://127.0.0.1', 'http://10.0.0.1:10255', 'https://user:word@127.0.0.1:10250']) {
      expect(() => createConnection({ clock: node.clock, url })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'http.url' }));
    }
  });

  it('is asked in the clear where it is on this machine and asks nobody who he is', async () => {
    await using node = await createKubernetesNode({ plain: true });
    node.cluster.setPod(podOf('a-1'));
    await withConnection(node, { caFile: undefined }, async (ask) => expect(await ask()).toContain('a-1'));
  });

  it('proves itself by the name that is expected of it', async () => {
    await using node = await createKubernetesNode({ names: ['worker-3'] });
    const { tokenFile } = node;
    await withConnection(node, { tokenFile }, (ask) => expect(ask()).rejects.toEqual(failure('k8s.source.tls')));
    await withConnection(node, { tokenFile, serverName: 'worker-4' }, (ask) => expect(ask()).rejects.toEqual(failure('k8s.source.tls')));
    expect(node.cluster.requests).toEqual([]);
    await withConnection(node, { tokenFile, serverName: 'worker-3' }, async (ask) => expect(await ask()).toContain('PodList'));
  });

  it('is believed without proof only where that was asked for', async () => {
    await using node = await createKubernetesNode({ names: ['worker-3'] });
    const { tokenFile } = node;
    const caFile = node.write('ca.crt', createClusterAuthority().ca);
    await withConnection(node, { caFile, tokenFile, unverified: true }, async (ask) => {
      expect(await ask()).toContain('PodList');
      node.cluster.fail('/pods', { kind: 'drop' });
      await expect(ask()).rejects.toEqual(failure('k8s.source.broken'));
    });
  });

  it.each([
    [{ kind: 'status', status: 401 }, failure('k8s.source.unauthorized', { status: 401 })],
    [{ kind: 'status', status: 403 }, failure('k8s.source.forbidden', { status: 403 })],
    [{ kind: 'status', status: 410 }, failure('k8s.source.gone', { status: 410 })],
    [{ kind: 'status', status: 500 }, failure('k8s.source.status', { status: 500 })],
    [{ kind: 'status', status: 302, headers: { location: 'https://127.0.0.1:1/' } }, failure('k8s.source.status', { status: 302 })],
    [{ kind: 'status', status: 429, headers: { 'retry-after': '7' } }, failure('k8s.source.throttled', { retryAfterMs: 7_000 })],
    [{ kind: 'status', status: 429, headers: { 'retry-after': 'Thu, 01 Jan 2026 12:00:03 GMT' } }, failure('k8s.source.throttled', { retryAfterMs: 3_000 })],
    [{ kind: 'status', status: 429, headers: { 'retry-after': '86400' } }, failure('k8s.source.throttled', { retryAfterMs: 60_000 })],
    [{ kind: 'drop' }, failure('k8s.source.broken')],
  ] as const)('that answers with %j is a source that cannot be asked', async (fault, expected) => {
    await using node = await createKubernetesNode();
    const { tokenFile } = node;
    node.cluster.fail('/pods', fault);
    await withConnection(node, { tokenFile }, async (ask) => {
      await expect(ask()).rejects.toEqual(expected);
      await ask();
    });
  });

  it('that says when to come back in no known words is asked like one that does not say', async () => {
    await using node = await createKubernetesNode();
    const { tokenFile } = node;
    node.cluster.fail('/pods', { kind: 'status', status: 429, headers: { 'retry-after': 'soon' } });
    await withConnection(node, { tokenFile }, async (ask) => {
      const error: unknown = await ask().catch((reason: unknown) => reason);
      expect(error).toMatchObject({ reason: 'k8s.source.throttled', detail: { status: 429 } });
      expect(error).not.toHaveProperty('detail.retryAfterMs');
    });
  });

  it('that is not there, or never answers, is told apart', async () => {
    await using node = await createKubernetesNode();
    const { tokenFile, clock } = node;
    await withConnection(node, { tokenFile, url: 'https://127.0.0.1:1' }, (ask) => expect(ask()).rejects.toEqual(failure('k8s.source.unreachable')));
    node.cluster.fail('/pods', { kind: 'hold', until: new Promise(() => undefined) });
    await withConnection(node, { tokenFile }, async (ask) => {
      const answer = expect(ask()).rejects.toEqual(failure('k8s.source.deadline'));
      await node.until(() => node.cluster.requests.length === 1);
      await clock.advance(10_000);
      await answer;
    });
  });
});
