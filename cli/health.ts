/**
 * Asking a server or an agent over gRPC health whether it can serve. Where it is asked is the commands' business.
 */
import { loadServices } from '../proto/load.ts';
import { systemClock } from '../runtime/clock.ts';
import { createRpcClient } from '../runtime/rpc/call.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { exitCodes, type Io } from './command.ts';
import type { FlagSpec } from './flags.ts';
import { plain } from './print.ts';

const service = 'grpc.health.v1.Health';

export const healthFlags = {
  shallow: { type: 'switch', summary: 'that it answers is enough, ready or not' },
  verbose: { type: 'switch', summary: 'say what was found' },
  timeout: { type: 'duration', value: 'TIME', summary: 'how long to wait; 5s unless given' },
} as const satisfies Record<string, FlagSpec>;

export interface HealthQuestion {
  /** `unix:/path` or `host:port`. */
  readonly address: string;
  /** Such as `server`, for what is printed. */
  readonly who: string;
  readonly shallow: boolean;
  readonly verbose: boolean;
  readonly timeoutMs: number;
}

/** Exit code 0 when it is healthy, else 1, whatever kept it from answering. */
export async function askHealth(question: HealthQuestion, io: Io): Promise<number> {
  const { address, who, shallow, verbose, timeoutMs } = question;
  const client = createRpcClient({ clock: systemClock, address });
  try {
    const { Check } = loadServices(service)[service];
    const { status } = await client.unary(Check, {}, { deadlineMs: timeoutMs, signal: io.signal });
    const healthy = shallow || status === 'SERVING';
    if (verbose) io.err(`${address} answers ${status}\n`);
    if (healthy) io.out(`${who} is healthy\n`);
    else io.err(`${who} is not ready\n`);
    return healthy ? exitCodes.ok : exitCodes.failed;
  } catch (error) {
    if (!(error instanceof SpiffeError)) throw error;
    io.err(`${who} is unhealthy${verbose ? `: ${address}: ${plain(error.message)} [${error.reason}]` : ''}\n`);
    return exitCodes.failed;
  } finally {
    client.close();
  }
}
