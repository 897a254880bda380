import { afterEach, beforeEach, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import type { ExplainRequest__Output } from '../../../proto/gen/steeple/agent/v1/ExplainRequest.ts';
import { rpcService } from '../../../runtime/rpc/handlers.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { type ScriptedSocket, serveOnSocket, steeple } from '../../help/cli.ts';

let socket: ScriptedSocket;

/** Process 7 has an identity, 8 has none, others are not there. */
beforeEach(async () => {
  const { 'steeple.agent.v1.Admin': definition } = loadServices('steeple.agent.v1.Admin');
  socket = await serveOnSocket(
    rpcService(definition, {
      async Explain({ pid }: ExplainRequest__Output) {
        if (pid > 8) throw new SpiffeError('missing', 'admin.no-process', 'there is no such process');
        const matches = pid === 7 ? [{ entry_id: 'e1', spiffe_id: 'spiffe://example.org/a', missing_selectors: [], strength: 2, strength_reason: 'a user and a path', pending_bundles: ['far.example'] }] : [];
        return {
          attestors: [{ name: 'unix', ms: 1.25, selectors: ['unix:uid:0', 'unix:path:/bin/\u001b[31mx'], reason: '' }, { name: 'docker', ms: 250, selectors: [], reason: 'attest.timeout' }],
          selectors: ['unix:uid:0'],
          matches,
          closest: [{ entry_id: 'e2', spiffe_id: 'spiffe://example.org/b', missing_selectors: ['unix:gid:5'] }],
        };
      },
      GetStatus: async () => ({}),
    }),
  );
});
afterEach(async () => socket[Symbol.asyncDispose]());

it('tells what was seen, what matches and what is missing', async () => {
  expect(await steeple(['explain', '--pid', '7', '--admin-socket', socket.path])).toEqual({
    code: 0,
    out: [
      'attestor unix: 2 selectors in 1.3 ms',
      '  unix:uid:0',
      '  unix:path:/bin/\\u001b[31mx',
      'attestor docker: attest.timeout in 250.0 ms',
      'gets spiffe://example.org/a by entry e1, strength 2: a user and a path',
      '  pending: the bundle of far.example has not come yet',
      'lacks for spiffe://example.org/b (entry e2):',
      '  unix:gid:5',
      '',
    ].join('\n'),
    err: '',
  });
});

it('exits 1 when the process has no identity', async () => {
  const { code, out } = await steeple(['explain', '--pid', '8'], { env: { STEEPLE_AGENT_ADMIN_SOCKET: socket.path } });
  expect(code).toBe(1);
  expect(out).toContain('no entry matches');
  const { code: again, out: text } = await steeple(['explain', '--pid', '8', '--admin-socket', socket.path, '--output', 'json']);
  expect(again).toBe(1);
  expect(JSON.parse(text)).toMatchObject({ matches: [], closest: [{ missing_selectors: ['unix:gid:5'] }] });
});

it('says that there is no such process, and that it was not told which', async () => {
  expect((await steeple(['explain', '--pid', '9', '--admin-socket', socket.path])).code).toBe(1);
  expect((await steeple(['explain', '--admin-socket', socket.path])).code).toBe(2);
});
