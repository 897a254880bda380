import { withoutEngine } from '../help/engine.ts';
import { withoutGo } from '../interop/program.ts';
import { describeEngine } from './engine-story.ts';

describeEngine({ name: 'docker', image: 'steeple-test:one' }, withoutEngine('docker') ?? withoutGo);
