import { describe, expect, it } from 'vitest';
import { checkFooting } from '../../runtime/floor.ts';

const sound = { version: '24.21.0', execArgv: ['--max-semi-space-size=1'], inspectorUrl: undefined };

describe('T-K03 what a daemon stands on', () => {
  it.each(['24.14.1', '24.15.0', '25.0.0', '26.10.0'])('Node %s is sound', (version) => {
    expect(() => checkFooting({ ...sound, version })).not.toThrow();
  });

  it.each(['24.14.0', '24.0.0', '22.22.9', '20.20.2', 'nonsense'])('Node %s is not', (version) => {
    expect(() => checkFooting({ ...sound, version })).toThrow(expect.objectContaining({ kind: 'unsupported', reason: 'floor.node' }) as Error);
  });

  it.each([
    ['a flag', { ...sound, execArgv: ['--inspect=0.0.0.0:9229'] }],
    ['a flag that breaks', { ...sound, execArgv: ['--inspect-brk'] }],
    ['an inspector opened since', { ...sound, inspectorUrl: 'ws://127.0.0.1:9229/x' }],
  ])('refuses %s', (_, footing) => {
    expect(() => checkFooting(footing)).toThrow(expect.objectContaining({ kind: 'denied', reason: 'floor.inspector' }) as Error);
  });
});
