/**
 * SPIRE's log level of a running agent. Its levels are more than ours: what has no line of its own here is the nearest.
 */
import type { LoggerDefinition } from '../../proto/gen/spire/api/agent/logger/v1/Logger.ts';
import type { SetLogLevelRequest__Output } from '../../proto/gen/spire/api/agent/logger/v1/SetLogLevelRequest.ts';
import type { Logger as LoggerMessage } from '../../proto/gen/spire/api/types/Logger.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { LogLevel, RootLogger } from '../../runtime/log.ts';
import type { Peer } from '../../runtime/peer.ts';
import type { ServiceHandlers } from '../../runtime/rpc/handlers.ts';

export interface LoggerApiOptions {
  readonly logger: Pick<RootLogger, 'level' | 'setLevel'>;
  readonly launchLevel: LogLevel;
}

const names = { debug: 'DEBUG', info: 'INFO', warn: 'WARN', error: 'ERROR' } as const satisfies Record<LogLevel, string>;
const levels: Readonly<Record<string, LogLevel>> = {
  PANIC: 'error',
  FATAL: 'error',
  ERROR: 'error',
  WARN: 'warn',
  INFO: 'info',
  DEBUG: 'debug',
  TRACE: 'debug',
};

export function loggerApi({ logger, launchLevel }: LoggerApiOptions): ServiceHandlers<LoggerDefinition, Peer> {
  const state = (): LoggerMessage => ({ current_level: names[logger.level], launch_level: names[launchLevel] });
  return {
    GetLogger: async () => state(),
    async SetLogLevel({ new_level: asked }: SetLogLevelRequest__Output) {
      if (asked === 'UNSPECIFIED') {
        throw new SpiffeError('invalid', 'logger.level', 'newLevel value cannot be LogLevel_UNSPECIFIED');
      }
      const level = levels[String(asked)];
      if (level === undefined) throw new SpiffeError('invalid', 'logger.level', 'unsupported log level');
      logger.setLevel(level);
      return state();
    },
    async ResetLogLevel() {
      logger.setLevel(launchLevel);
      return state();
    },
  };
}
