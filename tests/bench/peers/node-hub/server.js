// A hub in memory: server-sent events to whoever listens. No history, no limits.
const http = require('node:http');

const topics = new Map();
let sequence = 0;

function publish(topic, data) {
  sequence += 1;
  const event = Buffer.from(`id: ${sequence}\nevent: message\ndata: ${data}\n\n`);
  for (const response of topics.get(topic) ?? []) {
    response.write(event);
  }
  return sequence;
}

function subscribe(topic, request, response) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  response.write('retry: 1000\n\n');
  const subscribers = topics.get(topic) ?? new Set();
  topics.set(topic, subscribers);
  subscribers.add(response);
  request.on('close', () => subscribers.delete(response));
}

const server = http.createServer((request, response) => {
  const topic = request.url.split('?')[0];
  if (request.method === 'GET' && topic.startsWith('/api/live/')) {
    subscribe(topic, request, response);
    return;
  }
  let body = '';
  request.on('data', (chunk) => { body += chunk; });
  request.on('end', () => {
    if (request.method !== 'POST') {
      response.end('a hub');
      return;
    }
    const id = publish(topic, JSON.stringify(JSON.parse(body)));
    response.writeHead(202, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ id: String(id) }));
  });
});

server.listen(Number(process.env.PORT), '127.0.0.1');
