// The original's pipeline, from file to file: each chunk is made a text of its own.
const { createReadStream, createWriteStream } = require('node:fs');
const { Transform, pipeline } = require('node:stream');

const [source, target] = process.argv.slice(2);
const upper = new Transform({
  transform(chunk, encoding, done) {
    done(null, chunk.toString().toUpperCase());
  },
});

pipeline(createReadStream(source, { highWaterMark: 64 * 1024 }), upper, createWriteStream(target), (error) => {
  if (error) {
    console.error(error);
    process.exitCode = 1;
  }
});
