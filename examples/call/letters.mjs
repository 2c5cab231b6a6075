// The printing service: classic Bull, which carries nothing. `bullJob` makes the span, under whoever added the job.

import Bull from 'bull';
import { bullJob } from 'grafter-propagation';

import { start } from './tracing.mjs';

const tracer = start('letters');
const letters = new Bull('letters', process.env.REDIS);
letters.process((job) =>
  bullJob(job, async () => {
    await tracer.startActiveSpan('print', async (span) => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      span.end();
    });
  }),
);
await letters.isReady();
console.log('ready');
