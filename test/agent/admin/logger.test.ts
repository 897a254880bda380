import { beforeEach, expect, it } from 'vitest';
import { loggerApi } from '../../../agent/admin/logger.ts';
import type { Logger } from '../../../proto/gen/spire/api/types/Logger.ts';
import { createLogger, type RootLogger } from '../../../runtime/log.ts';
import { createTestClock } from '../../help/clock.ts';

interface Methods {
  GetLogger(): Promise<Logger>;
  SetLogLevel(request: { readonly new_level: string | number }): Promise<Logger>;
  ResetLogLevel(): Promise<Logger>;
}

let lines: string[];
let logger: RootLogger;
let api: Methods;

beforeEach(() => {
  lines = [];
  logger = createLogger({ clock: createTestClock(), level: 'info', write: (line) => lines.push(line) });
  api = loggerApi({ logger, launchLevel: 'info' }) as unknown as Methods;
});

it('tells the level in force and the one at launch', async () => {
  expect(await api.GetLogger()).toEqual({ current_level: 'INFO', launch_level: 'INFO' });
});

it.each([
  ['TRACE', 'DEBUG', 4],
  ['DEBUG', 'DEBUG', 4],
  ['INFO', 'INFO', 3],
  ['WARN', 'WARN', 2],
  ['ERROR', 'ERROR', 1],
  ['FATAL', 'ERROR', 1],
  ['PANIC', 'ERROR', 1],
])('%s puts %s in force, and reset takes it back', async (asked, current, written) => {
  expect(await api.SetLogLevel({ new_level: asked })).toEqual({ current_level: current, launch_level: 'INFO' });
  for (const level of ['debug', 'info', 'warn', 'error'] as const) logger[level]('a.line');
  expect(lines.length).toBe(written);
  expect(await api.ResetLogLevel()).toEqual({ current_level: 'INFO', launch_level: 'INFO' });
});

it.each([
  ['UNSPECIFIED', 'newLevel value cannot be LogLevel_UNSPECIFIED'],
  [77, 'unsupported log level'],
])('%s is refused, and changes nothing', async (asked, message) => {
  await expect(api.SetLogLevel({ new_level: asked })).rejects.toMatchObject({ kind: 'invalid', reason: 'logger.level', message });
  expect(logger.level).toBe('info');
});
