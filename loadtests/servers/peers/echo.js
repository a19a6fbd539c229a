// Echo on Node's net module, or on its tls module. Usage: node echo.js PORT [CERTFILE KEYFILE]
'use strict';
const fs = require('fs');
const net = require('net');
const tls = require('tls');

const [port, certfile, keyfile] = process.argv.slice(2);

const echo = (socket) => {
  socket.on('data', (data) => socket.write(data));
  socket.on('error', () => {});
};

const server = certfile
  ? tls.createServer({ cert: fs.readFileSync(certfile), key: fs.readFileSync(keyfile), noDelay: true }, echo)
  : net.createServer({ noDelay: true }, echo);
server.on('tlsClientError', () => {});
server.listen({ port: Number(port), host: '127.0.0.1', backlog: 4096 });
