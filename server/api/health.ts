/**
 * gRPC's health service on the operators' socket, answered from the conditions of readiness, in SPIRE's terms: the whole
 * server or nothing.
 */
import type { Health } from '../../runtime/health.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Handlers } from './handlers.ts';

export function createHealthApi(health: Health): Handlers<'grpc.health.v1.Health'> {
  const status = (service: string) => {
    if (service !== '') throw new SpiffeError('invalid', 'health.service', 'per-service health is not supported');
    return { status: health.state.value.ready ? ('SERVING' as const) : ('NOT_SERVING' as const) };
  };
  return {
    async Check({ service }) {
      return status(service);
    },
    async List() {
      return { statuses: { '': status('') } };
    },
    async *Watch({ service }, _caller, signal) {
      status(service);
      let last = '';
      for await (const _state of health.state.values(signal)) {
        const now = status('');
        if (now.status !== last) yield now;
        last = now.status;
      }
    },
  };
}
