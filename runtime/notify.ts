/**
 * Telling a service manager once that the program is ready. What readiness is made of is `health.ts`, how the word gets
 * across is `linux.ts`.
 */
import type { HealthState } from './health.ts';
import { notifyServiceManager } from './linux.ts';
import type { Watch } from './watch.ts';

/** Resolves once ready, or with the signal. @param address of NOTIFY_SOCKET; without one there is nobody to tell */
export async function notifyWhenReady(state: Watch<HealthState>, address: string | undefined, signal: AbortSignal): Promise<void> {
  if (address === undefined || address === '') return;
  for await (const { ready } of state.values(signal)) {
    if (!ready) continue;
    try {
      notifyServiceManager(address, 'READY=1');
    } catch {
      // A service manager that does not listen is no reason not to serve.
    }
    return;
  }
}
