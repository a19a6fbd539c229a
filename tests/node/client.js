// Sends the chunks it is given, each a write of its own after a pause, half-closes, and prints what comes back.
// With "reply" as the pause, each chunk is sent once something has come back for the one before it.
// node client.js PORT PAUSE_MS CHUNK_IN_HEX...
const net = require('net');

const [port, pause, ...chunks] = process.argv.slice(2);
const socket = net.createConnection({ port: Number(port), host: '127.0.0.1', noDelay: true }, () => {
  const next = () => {
    if (chunks.length === 0) {
      socket.end();
      return;
    }
    const chunk = Buffer.from(chunks.shift(), 'hex');
    if (pause === 'reply') {
      socket.once('data', next);
      socket.write(chunk);
    } else {
      socket.write(chunk, () => setTimeout(next, Number(pause)));
    }
  };
  next();
});
socket.on('data', (data) => process.stdout.write(data));
socket.on('error', (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
