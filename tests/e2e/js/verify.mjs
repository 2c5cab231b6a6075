// Verifies webhook deliveries with OpenAI's own client. In: a JSON list of {what, body, headers, secret} on stdin; out: a
// verdict for each, by what it is.
import OpenAI from "openai";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const client = new OpenAI({ apiKey: "none" });
const verdicts = {};
for (const { what, body, headers, secret } of JSON.parse(Buffer.concat(chunks).toString())) {
  try {
    await client.webhooks.verifySignature(body, headers, secret);
    verdicts[what] = "accepted";
  } catch {
    verdicts[what] = "refused";
  }
}
console.log(JSON.stringify(verdicts));
