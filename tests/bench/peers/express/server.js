// The original's report route: a pool of 20, one look-up, the whole file read and sent. And its hello.
const { readFile } = require('node:fs/promises');
const express = require('express');
const mysql = require('mysql2/promise');

const pool = mysql.createPool({
  host: process.env.DB_HOST,
  port: Number(process.env.DB_PORT),
  user: process.env.DB_USER,
  password: process.env.DB_PASS,
  database: process.env.DB_NAME,
  connectionLimit: 20,
});
const app = express();

app.get('/api/report/:userId', async (req, res) => {
  const [rows] = await pool.execute('SELECT report_path FROM user_reports WHERE user_id = ?', [req.params.userId]);
  if (rows.length === 0) {
    res.status(404).json({ error: 'Report not found' });
    return;
  }
  const report = await readFile(rows[0].report_path);
  res.type('pdf').send(report);
});

app.get('/hello', (req, res) => {
  res.type('text').send('Hello, World!');
});

app.listen(Number(process.env.PORT), '127.0.0.1');
