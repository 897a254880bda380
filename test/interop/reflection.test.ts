import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { reflectionServices } from '../../proto/reflection.ts';
import { systemClock } from '../../runtime/clock.ts';
import { rpcService } from '../../runtime/rpc/handlers.ts';
import { createRpcServer } from '../../runtime/rpc/serve.ts';
import { runProgram, withoutGo } from './program.ts';

const served = [
  'SpiffeWorkloadAPI',
  'grpc.health.v1.Health',
  'spire.api.server.agent.v1.Agent',
  'spire.api.server.entry.v1.Entry',
  'steeple.node.v1.Node',
] as const;

describe('reflection as Go reads it', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'steeple-reflection-'));
  const socket = path.join(folder, 'api.sock');
  const [v1, v1alpha] = reflectionServices(served);
  const server = createRpcServer<undefined>({
    clock: systemClock,
    services: [rpcService(v1.definition, v1.handlers), rpcService(v1alpha.definition, v1alpha.handlers)],
  });
  const listener = createServer((connection) => server.inject(connection, undefined));

  beforeAll(async () => new Promise<void>((resolve) => listener.listen(socket, resolve)));
  afterAll(async () => {
    await server.close();
    listener.close();
    rmSync(folder, { recursive: true });
  });

  it.skipIf(withoutGo !== undefined).each([[[]], [['-v1alpha']]])(
    `builds every descriptor without complaint %j ${withoutGo ?? ''}`,
    async (flags) => {
      const { code, lines } = await runProgram('reflect', '-socket', `unix://${socket}`, ...flags);
      expect(code, JSON.stringify(lines)).toBe(0);
      const { services, unknownCode } = lines[0] as unknown as { services: Record<string, string[]>; unknownCode: number };
      expect(Object.keys(services).toSorted()).toEqual(
        [...served, 'grpc.reflection.v1.ServerReflection', 'grpc.reflection.v1alpha.ServerReflection'].toSorted(),
      );
      expect(services['SpiffeWorkloadAPI']).toContain('FetchX509SVID');
      expect(unknownCode).toBe(5);
    },
  );
});
