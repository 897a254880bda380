import { createSecretKey, generateKeyPairSync } from 'node:crypto';
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { createLogger, logFields, Secret, silentLogger } from '../../runtime/log.ts';
import type { LogOptions } from '../../runtime/log.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { createTestClock } from '../help/clock.ts';

const setup = (options: Partial<LogOptions> = {}) => {
  const lines: string[] = [];
  const logger = createLogger({ clock: createTestClock(), write: (line) => lines.push(line), ...options });
  const last = (): Record<string, unknown> => JSON.parse(lines.at(-1) ?? '{}') as Record<string, unknown>;
  return { lines, logger, last };
};

describe('createLogger', () => {
  it('writes one JSON line per event, with the fields of its parents', () => {
    const { lines, logger, last } = setup();
    logger.child({ agent: 'a', count: 1 }).child({ count: 2 }).info('entry.created', { spiffeId: 'spiffe://x/y', selectors: ['unix:uid:1'] });
    expect(lines).toHaveLength(1);
    expect(lines[0]?.endsWith('}\n')).toBe(true);
    expect(last()).toEqual({
      level: 'info',
      time: '2026-01-01T12:00:00.000Z',
      agent: 'a',
      count: 2,
      spiffeId: 'spiffe://x/y',
      selectors: ['unix:uid:1'],
      event: 'entry.created',
    });
  });

  it('has no field of the name of one that every line has', () => {
    expect(logFields.filter((name) => ['time', 'level', 'event'].includes(name))).toEqual([]);
  });

  it('changes its level at run time, for children too', () => {
    const { lines, logger } = setup();
    const child = logger.child({ task: 'sync' });
    child.debug('quiet');
    logger.setLevel('debug');
    child.debug('loud');
    logger.setLevel('error');
    child.warn('quiet');
    expect(lines.map((line) => (JSON.parse(line) as { event: string }).event)).toEqual(['loud']);
  });

  it('T-J05: prints no key, no bytes and no wrapped secret, wherever they hide', () => {
    const { lines, logger } = setup();
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const sentinel = 'SENTINEL';
    const secret = new Secret(sentinel);
    for (const hidden of [
      privateKey,
      createSecretKey(Buffer.from(sentinel)),
      Buffer.from(sentinel),
      new Uint8Array([83, 69]),
      Buffer.from(sentinel).buffer,
      secret,
      [secret, privateKey, Buffer.from(sentinel)],
      new Set([secret]),
      { toJSON: () => sentinel, value: sentinel },
      new Map([[sentinel, sentinel]]),
      () => sentinel,
      Symbol(sentinel),
    ]) {
      logger.info('secrets', { token: hidden });
    }
    logger.info('secrets', { unlisted: sentinel } as never);
    expect(lines).toHaveLength(13);
    expect(lines.join('')).not.toContain(sentinel);
    expect(lines.join('')).not.toContain('83');
    expect(lines[0]).toContain('"token":"[secret]"');
    expect(`${String(secret)} ${JSON.stringify({ secret })} ${inspect(secret)} ${inspect({ deep: { secret } })}`).not.toContain(sentinel);
    expect(secret.reveal()).toBe(sentinel);
  });

  it('T-J03: keeps one event one line, short, whatever the text', () => {
    const { lines, logger, last } = setup();
    logger.info('evil\nevent', { path: 'a\u001b[31m\r\n{"level":"error"}\u2028\u202e\u0000\ud800', name: 'x'.repeat(1_000_000) });
    expect(lines).toHaveLength(1);
    expect(lines[0]?.trimEnd().split(/[\n\r\u2028]/)).toHaveLength(1);
    expect(last()['event']).toBe('evil\\u000aevent');
    expect(last()['path']).toBe('a\\u001b[31m\\u000d\\u000a{"level":"error"}\\u2028\\u202e\\u0000\ufffd');
    expect(lines[0]?.length).toBeLessThan(2_000);
    logger.info('long', { selectors: Array.from({ length: 10_000 }, (_, i) => `s${i}`) });
    expect(last()['selectors']).toHaveLength(65);
  });

  it('shows errors with kind and reason down their causes, without detail', () => {
    const { logger, last } = setup();
    const cause = new TypeError('low');
    logger.error('failed', { error: new SpiffeError('denied', 'agent.banned', 'no', { cause, detail: { id: 'x' } }) });
    expect(last()['error']).toEqual([
      { kind: 'denied', reason: 'agent.banned', message: 'no' },
      { name: 'TypeError', message: 'low', at: expect.stringContaining('log.test') },
    ]);
    const endless = new Error('a');
    endless.cause = endless;
    logger.error('failed', { error: endless });
    expect(last()['error']).toHaveLength(5);
  });

  it('has a form for people', () => {
    const { lines, logger } = setup({ format: 'human' });
    logger.info('svid.rotated', { spiffeId: 'spiffe://x/y', ms: 12, outcome: 'two words' });
    logger.warn('sync.late');
    expect(lines).toEqual(['12:00:00  svid.rotated  spiffeId=spiffe://x/y  ms=12  outcome="two words"\n', '12:00:00  WARN sync.late\n']);
  });
});

it('the silent logger stays silent', () => {
  expect(silentLogger.child({ name: 'x' }).error('x')).toBeUndefined();
});
