// The original's computation, but on threads of Piscina: its own pool mixes up the answers of those who ask at once.
const path = require('node:path');
const express = require('express');
const { Piscina } = require('piscina');

const workers = Number(process.env.WORKERS);
const pool = new Piscina({
  filename: path.join(__dirname, 'compute.js'),
  minThreads: workers,
  maxThreads: workers,
  stricterFIFO: true, // or one of four who ask again and again may never be answered
});
const app = express();
app.use(express.json({ limit: '50mb' }));

app.post('/api/process', async (req, res) => {
  const { task, args } = req.body;
  // Nothing is computed of numbers: they are sent for the sake of their parsing.
  const result = task === 'describe' ? { count: args.numbers.length } : await pool.run(args?.n ?? 1e7);
  res.json({ result });
});

app.get('/healthz', (req, res) => {
  res.type('json').send('{"status":"ok"}\n');
});

app.listen(Number(process.env.PORT), '127.0.0.1');
