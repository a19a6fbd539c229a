// The JSON service (GREETING and SUM, one object per line) on Node's net module. Usage: node json.js PORT
'use strict';

const answer = (message) => {
  switch (message.type) {
    case 'GREETING': return { status: 'OK', reply: `Hello, ${message.name}!` };
    case 'SUM': return { status: 'OK', result: message.a + message.b };
    default: return { status: 'ERROR', message: 'Unknown type' };
  }
};

const reply = (line) => {
  try {
    return answer(JSON.parse(line));
  } catch {
    return { status: 'ERROR', message: 'Invalid JSON' };
  }
};

const serve = (socket) => {
  let pending = '';
  socket.setEncoding('utf8');
  socket.on('data', (text) => {
    const lines = (pending + text).split('\n');
    pending = lines.pop();
    for (const line of lines) socket.write(JSON.stringify(reply(line)) + '\n');
  });
  socket.on('error', () => {});
};

require('net').createServer({ noDelay: true }, serve)
  .listen({ port: Number(process.argv[2]), host: '127.0.0.1', backlog: 4096 });
