// The after-hours worker: BullMQ in Node, where `bullmq-otel` carries the trace. What it does is leave a letter for the
// clinic's old printing service, which runs classic Bull: `injectJob` puts the place into the job's data.

import Bull from 'bull';
import { Worker } from 'bullmq';
import { BullMQOtel } from 'bullmq-otel';
import { injectJob } from 'grafter-propagation';

import { start } from './tracing.mjs';

start('after-hours');
const letters = new Bull('letters', process.env.REDIS);

const worker = new Worker('after-hours', async (job) => letters.add(injectJob(job.data)), {
  connection: { url: process.env.REDIS, maxRetriesPerRequest: null },
  telemetry: new BullMQOtel({ tracerName: 'after-hours' }),
});
await worker.waitUntilReady();
console.log('ready');
